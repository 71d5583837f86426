"""Writes one answer of the fake OpenAI-compatible server, in one piece or as server-sent events."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

from aiohttp import web

from tests.support.fakes.openai.server_kinds import CREATED, Counts, Json, ServerKind
from tests.support.fakes.openai.wire_faults import Kind, WireFault

BETWEEN_SEGMENTS_S = 0.005
"""Pause between two TCP segments, so that the client's event loop reads them one after the other."""

COMMENT = b":\n\n"
"""What llama.cpp sends every 30 s; the fake sends it around the words."""

ID = "chatcmpl-0123456789abcdef"


@dataclass(slots=True)
class Script:
    """One answer. `reason`: its finish_reason. `cached`: cached prompt tokens to report; None: what is measured."""

    text: str
    reason: str = "stop"
    reasoning: str = ""
    cached: int | None = None


class _Over(Exception):
    """A fault has ended the response. `instead`: what is sent if the status line was not."""

    def __init__(self, instead: web.Response | None = None) -> None:
        super().__init__()
        self.instead = instead


@dataclass(eq=False, slots=True)
class Answer:
    """The answer to one request. `repeated` is sent before the script's text. `longest`: most words to write."""

    kind: ServerKind
    request: web.Request
    body: Json
    model: str
    script: Script
    repeated: str
    counts: Counts
    longest: int
    fault: WireFault | None
    passing: Callable[[str], Awaitable[None]]
    _padding: Json = field(init=False, default_factory=dict)
    _begun: bool = field(init=False, default=False)
    _response: web.StreamResponse = field(init=False)

    def __post_init__(self) -> None:
        self._response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})

    async def open(self) -> None:
        """Sends what the server sends before it has a free slot."""
        await self._misbehave(None)
        if self.kind.opens == "first word" or not self.body.get("stream"):
            return
        await self._response.prepare(self.request)
        if self.kind.opens == "role":
            await self._begin()

    async def respond(self) -> web.StreamResponse:
        """Sends the rest of the response; returns it when all is sent."""
        if not self.body.get("stream"):
            return await self._at_once()
        try:
            await self._stream()
        except _Over as over:
            if over.instead is not None and not self._response.prepared:
                return over.instead
        if not self._response.prepared:
            await self._response.prepare(self.request)
        return self._response

    async def _at_once(self) -> web.Response:
        """A response without a stream."""
        said = {"content": self.repeated, "reasoning": ""}
        async for name, piece in self._pieces():
            said[name] += piece
        message = {"role": "assistant", "content": said["content"]}
        if said["reasoning"]:
            message[self.kind.reasoning] = said["reasoning"]
        choice = {"index": 0, "message": message, "finish_reason": self._reason()}
        found = {"id": ID, "object": "chat.completion", "created": CREATED, "model": self.model}
        usage = {"choices": [choice], "usage": self._usage()}
        return web.json_response(found | usage | self.kind.extras() | self.kind.last_extras(self.counts))

    async def _stream(self) -> None:
        async for name, piece in self._pieces():
            await self._begin()
            await self._chunk(self.kind.delta(name, piece), more=self._padding)
            self._padding = {}
        await self._begin()
        if self.kind.comments:
            await self._send(COMMENT)
        await self._end()

    async def _begin(self) -> None:
        """Sends what precedes the first word, once."""
        if self._begun:
            return
        self._begun = True
        for delta in self.kind.first_deltas():
            await self._chunk(delta)
        if self.kind.comments:
            await self._send(COMMENT)
        if self.repeated:
            await self._chunk(self.kind.delta("content", self.repeated))

    async def _end(self) -> None:
        """The finish reason, the usage, [DONE]."""
        usage = {"usage": self._usage()}
        last = self.kind.last_extras(self.counts)
        asked = self._option("include_usage")
        separate = asked and not self.kind.always_usage
        beside = usage if self.kind.always_usage else {} if separate else last
        await self._chunk(self.kind.last_delta(), self._reason(), beside)
        if separate:
            await self._event(self._envelope() | {"choices": []} | usage | last)
        if self.kind.done:
            await self._send(b"data: [DONE]\n\n")

    async def _pieces(self) -> AsyncIterator[tuple[str, str]]:
        """Yields ('reasoning' or 'content', a word) and counts; passes the gates; faults happen before the words."""
        for number, piece in enumerate(_split(self.script.reasoning)):
            if self.counts.answer >= self.longest:
                return
            await self.passing(f"reasoning/{number}")
            self._count()
            yield "reasoning", piece
        words = _split(self.script.text)
        for number, piece in enumerate(words):
            if self.counts.answer >= self.longest:
                break
            await self._misbehave(number)
            await self.passing(str(number))
            self._count()
            yield "content", piece
        else:
            await self._misbehave(len(words))

    async def _misbehave(self, number: int | None) -> None:
        """What a fault does before word `number` (None: the status line). Raises _Over if the response ends there."""
        fault = self.fault
        if fault is None or fault.word != number:
            return
        match fault.kind:
            case Kind.HANG:
                await fault.released.wait()
            case Kind.RESET:
                await vanish(self.request)
            case Kind.CLOSE:
                raise _Over
            case Kind.EMPTY:
                await self._begin()
                while not fault.released.is_set():
                    await self._chunk(self.kind.delta("content", ""))
                    await asyncio.sleep(BETWEEN_SEGMENTS_S)
            case Kind.BAD_JSON:
                await self._begin()
                await self._send(b'data: {"id": "chatcmpl-0123", "choices": [{"delta": {"conte\n\n')
            case Kind.STREAM_ERROR:
                if not self._response.prepared:
                    raise _Over(web.json_response(self.kind.error(500, fault.message), status=500))
                await self._event(self.kind.stream_error(fault.message))
                if self.kind.done_after_error:
                    await self._send(b"data: [DONE]\n\n")
                raise _Over
            case Kind.LONG_LINE:
                self._padding = {"padding": "x" * fault.size}

    def _count(self) -> None:
        self.counts = replace(self.counts, answer=self.counts.answer + 1)

    def _reason(self) -> str:
        whole = len(_split(self.script.reasoning)) + len(_split(self.script.text))
        return "length" if self.counts.answer < whole else self.script.reason

    def _usage(self) -> Json:
        return self.counts.usage(details=self.kind.cached_details)

    def _option(self, name: str) -> bool:
        return bool((self.body.get("stream_options") or {}).get(name))

    def _envelope(self) -> Json:
        head = {"id": ID, "object": "chat.completion.chunk", "created": CREATED, "model": self.model}
        return head | self.kind.extras()

    async def _chunk(self, delta: Json, reason: str | None = None, more: Json | None = None) -> None:
        """Sends a chunk with one choice."""
        choice = self.kind.choice(delta, reason)
        if "prompt" in self.body:
            if not (delta.get("content") or reason or more):
                return
            choice = self.kind.text_choice(delta.get("content") or "", reason)
        chunk = self._envelope() | {"choices": [choice]} | (more or {})
        if self.kind.running_usage and self._option("continuous_usage_stats"):
            chunk["usage"] = self._usage()
        await self._event(chunk)

    async def _event(self, content: Json) -> None:
        line = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        await self._send(f"data: {line}\n\n".encode())

    async def _send(self, event: bytes) -> None:
        """Sends an event, in two segments if a fault says so."""
        if not self._response.prepared:
            await self._response.prepare(self.request)
        if self.fault is None or self.fault.kind is not Kind.SPLIT:
            await self._response.write(event)
            return
        at = _inside_character(event) if self.fault.size < 0 else min(self.fault.size, len(event) - 1)
        await self._response.write(event[:at])
        await asyncio.sleep(BETWEEN_SEGMENTS_S)
        await self._response.write(event[at:])


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Resets a connection."""
    if not isinstance(transport, asyncio.WriteTransport):
        return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def vanish(request: web.Request) -> None:
    """Resets a request's connection. Does not return: the request is cancelled."""
    reset(request.transport)
    await asyncio.Event().wait()


def _split(text: str) -> list[str]:
    """The words of a text, each but the first with its space."""
    first, *others = text.split(" ")
    return [word for word in (first, *(f" {each}" for each in others)) if word]


def _inside_character(event: bytes) -> int:
    """The index after the first byte of the first character of several bytes; else the middle."""
    return next((index + 1 for index, byte in enumerate(event) if byte >= 0xC0), len(event) // 2)
