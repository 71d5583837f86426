"""The whole bot behind an OpenAI-compatible server: `python -m bench.peering.bot_server MODEL PORT DTYPE TOKENS`.

With `URL COMMAND...` after these, its model is on the server that the command starts, whose API is at the URL.

Posts each question in the channel that the header X-Conversation names; it passes storage, queue, worker, the engine
process and replies. Streams what the bot posts and edits there. Ignores the client's message history, because the bot
keeps its own. Edits are not limited, like the other servers' streams.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from bench.instant_platform import InstantPlatform, run_service


class Door:
    """Serves /v1/chat/completions with the bot's answers."""

    def __init__(self, platform: InstantPlatform) -> None:
        self._platform = platform

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Sends the last message to the bot, and streams the shown text."""
        body = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        shown: asyncio.Queue[str | None] = asyncio.Queue()
        question, channel = body["messages"][-1]["content"], request.headers["X-Conversation"]
        asked = asyncio.create_task(self._platform.ask(question, channel, shown.put_nowait))
        asked.add_done_callback(lambda _: shown.put_nowait(None))
        sent = 0
        while (text := await shown.get()) is not None:
            if len(text) > sent:
                await _send(response, {"choices": [{"index": 0, "delta": {"content": text[sent:]}}]})
                sent = len(text)
        usage = await asked
        counted = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.generated_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        }
        await _send(response, {"choices": [], "usage": counted})
        await response.write(b"data: [DONE]\n\n")
        return response


async def _send(response: web.StreamResponse, chunk: object) -> None:
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


async def _healthy(request: web.Request) -> web.Response:
    return web.Response()


async def main(model: str, port: int, dtype: str, tokens: int, url: str, command: Sequence[str]) -> None:
    """Serves until the server ends, forever without one. url: '' for our own engine."""
    server = await asyncio.create_subprocess_exec(*command) if command else None
    async with run_service(Path(model), tokens, dtype, interval_s=0.0, url=url) as platform:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", Door(platform).complete)
        application.router.add_get("/health", _healthy)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await (server.wait() if server else asyncio.Event().wait())


if __name__ == "__main__":
    model, port, dtype, tokens, *more = sys.argv[1:]
    asyncio.run(main(model, int(port), dtype, int(tokens), more[0] if more else "", more[1:]))
