"""Runs the whole service on a platform without latency, so that a benchmark measures only our code.

`InstantPlatform.ask` returns the usage of a final answer, and reports its text as it grows.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from bot.config.settings import load_settings
from bot.engine.client.process import EngineProcess
from bot.engine.remote.remote_engine import RemoteEngine
from bot.models.catalog import Catalog
from bot.platforms.adapter import Core, Limits
from bot.platforms.turns import Turns
from bot.service.service import Service
from bot.types.engine import Engine
from bot.types.messages import Accepted, ConversationKey, IncomingMessage, Person, Reply, Usage


class InstantPlatform:
    """Accepts every post and update at once; updates come at intervals of at least `interval_s`."""

    platform = "bench"

    def __init__(self, interval_s: float = 1.0) -> None:
        self.limits = Limits(max_chars=2000, min_interval_s=interval_s)
        self._core: asyncio.Future[Core] = asyncio.get_running_loop().create_future()
        self._closed = asyncio.Event()
        self._numbers = count()
        self._ended: dict[str, asyncio.Future[Usage]] = {}
        self._watchers: dict[str, Callable[[str], None]] = {}

    async def connected(self) -> None:
        """Waits until the service has connected."""
        await self._core

    async def ask(
        self, text: str, channel: str = "", watch: Callable[[str], None] = lambda shown: None, who: str = ""
    ) -> Usage:
        """Asks in a channel, as a person (defaults: new ones); the usage of the answer.

        Calls `watch` with the text as it grows.
        """
        core, number = await self._core, next(self._numbers)
        self._ended[str(number)] = asyncio.get_running_loop().create_future()
        self._watchers[str(number)] = watch
        key = ConversationKey("bench", "", channel or str(number))
        message = IncomingMessage(
            key, str(number), Person(who or str(number), "Ann"), text, time.time(), addressed=True
        )
        assert isinstance(await core.handle(message), Accepted)
        return await self._ended[str(number)]

    async def run(self, core: Core, turns: Turns | None = None) -> None:
        self._core.set_result(core)
        await self._closed.wait()

    def id_at(self, seconds: float) -> str:
        """Nothing is read back."""
        return ""

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        return ()

    async def post(self, reply: Reply) -> str:
        await self.update(reply)
        return reply.reply_id

    async def find_posted(self, reply: Reply) -> str | None:
        return None

    async def update(self, reply: Reply) -> None:
        self._watchers[reply.question_id](reply.committed + reply.tail)
        if reply.final and reply.usage is not None:
            self._ended[reply.question_id].set_result(reply.usage)

    async def status(self, key: ConversationKey, text: str | None) -> None:
        return None

    async def close(self) -> None:
        self._closed.set()


@asynccontextmanager
async def run_service(
    model: Path, tokens: int, dtype: str, interval_s: float = 1.0, url: str = ""
) -> AsyncIterator[InstantPlatform]:
    """Runs a service with a temporary state directory, greedy, on the CPU, or with its model on the server at `url`."""
    with tempfile.TemporaryDirectory() as state:
        server = {"engine": "openai", "engine_urls": url} if url else {}
        settings = load_settings(
            **server,
            model=str(model),
            state_dir=Path(state),
            device="cpu",
            dtype=dtype,
            temperature=0.0,
            repetition_penalty=1.0,
            max_tokens=tokens,
            system_prompt="",
            http="off",
        )
        platform = InstantPlatform(interval_s)
        engine: Engine = RemoteEngine.of(settings) if url else EngineProcess()
        service = Service(settings, Catalog.of(settings), [platform], engine)
        running = asyncio.create_task(service.run())
        try:
            answered = asyncio.create_task(platform.ask("Are you there?"))
            await asyncio.wait([running, answered], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running  # raises the service's exception
            yield platform
        finally:
            service.stop()
            await running
