"""The adapter of the scripted platform: connects to a World over a socket, from the test's process or another.

Behaves like a real platform's client: acknowledges an event only after core.handle returned, reconnects after a lost
connection, and raises OutcomeUnknown for calls that were cut off.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

from bot.platforms.adapter import Core, Limits
from bot.platforms.turns import Never, Turns
from bot.types.errors import FatalAdapterError, Gone, OutcomeUnknown, Rejected, RetryLater, StorageError
from bot.types.messages import ConversationKey, IncomingMessage, Reply
from tests.support.fakes.scripted_platform import LIMIT, Fault
from tests.support.fakes.wire import Line, packed, receive, send, unpacked

LIMITS = Limits(max_chars=2000, min_interval_s=0.0)


class ScriptedAdapter:
    """The adapter of the platform named `platform`. `refusal`: run() raises FatalAdapterError with this text."""

    def __init__(self, port: int, platform: str = "scripted", limits: Limits = LIMITS, refusal: str = "") -> None:
        self.platform, self.limits = platform, limits
        self._port, self._refusal = port, refusal
        self._writer: asyncio.StreamWriter | None = None
        self._calls: dict[int, asyncio.Future[Line]] = {}
        self._numbers = itertools.count()
        self._handling: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._there = asyncio.Event()
        self.core: Core | None = None
        """The core that it runs with."""
        self.caught_up = asyncio.Event()
        """Set when the backfill of this session is complete."""
        self.hears = True
        """Whether it takes events; another host's adapter gets them, too."""

    async def run(self, core: Core, turns: Turns | None = None) -> None:
        """Connects, forwards events, and reconnects after a lost connection, until close()."""
        self.core = core
        self.hears = self.hears and not isinstance(turns, Never)
        while not self._closed.is_set():
            if self._refusal:
                raise FatalAdapterError(self._refusal)
            reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=LIMIT)
            self._there.set()
            catching_up = asyncio.create_task(self._catch_up(core))
            try:
                while (line := await receive(reader)) is not None:
                    self._hear(line, core, self._writer)
            finally:
                self._there.clear()
                self._writer.close()
                catching_up.cancel()
                await asyncio.gather(catching_up, return_exceptions=True)
                for call in self._calls.values():
                    if not call.done():
                        call.set_exception(OutcomeUnknown("the connection was lost"))
        await asyncio.gather(*self._handling, return_exceptions=True)

    def id_at(self, seconds: float) -> str:
        """Not asked of a platform with one connection."""
        raise NotImplementedError

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """Reads messages from the World."""
        answer = await self._call("since", value=packed(key), after=after_id, limit=limit)
        return [unpacked(line) for line in answer["events"]]

    async def post(self, reply: Reply) -> str:
        """Posts a reply."""
        return str((await self._call("post", value=packed(reply)))["id"])

    async def find_posted(self, reply: Reply) -> str | None:
        """The id of a reply if it was posted."""
        found: str | None = (await self._call("find", value=packed(reply)))["id"]
        return found

    async def update(self, reply: Reply) -> None:
        """Edits a reply."""
        await self._call("update", value=packed(reply))

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Shows a status, or ends it."""
        await self._call("status", value=packed(key), text="(over)" if text is None else text)

    def is_refused(self, refusal: str) -> None:
        """Makes the platform refuse this bot permanently, with this text."""
        self._refusal = refusal
        assert self._writer is not None
        self._writer.close()

    async def passing(self, point: str) -> None:
        """Passes one of the World's gates."""
        await self._call("pass", point=point)

    async def close(self) -> None:
        """Disconnects."""
        self._closed.set()
        if self._writer is not None:
            self._writer.close()

    def _hear(self, line: Line, core: Core, writer: asyncio.StreamWriter) -> None:
        if "event" in line:
            if not self.hears:
                return
            task = asyncio.create_task(self._handle(line, core, writer))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)
            return
        call = self._calls.get(line["answer"])
        if call is not None and not call.done():
            call.set_result(line)

    async def _handle(self, line: Line, core: Core, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                outcome = await core.handle(unpacked(line))
            except StorageError as error:
                await send(writer, {"event": line["event"], "error": str(error)})
                return
            await send(writer, {"event": line["event"], "outcome": packed(outcome)})

    async def _catch_up(self, core: Core) -> None:
        self.caught_up.clear()
        while True:
            try:
                await core.catch_up(self.platform)
                self.caught_up.set()
                return
            except StorageError:
                await asyncio.sleep(0.05)

    async def _call(self, name: str, **more: object) -> Line:
        await self._there.wait()
        assert self._writer is not None
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        try:
            await send(self._writer, {"id": number, "call": name, **more})
            line: Line = await answer
        except ConnectionError as error:
            raise OutcomeUnknown("the connection was lost") from error
        finally:
            del self._calls[number]
        match line.get("error"):
            case Fault.RETRY:
                raise RetryLater(line["seconds"])
            case Fault.REJECTED:
                raise Rejected("You may not write here.")
            case Fault.GONE:
                raise Gone("The message is not there any more.")
            case Fault.BROKEN:
                raise KeyError("a bug of the adapter")
        return line
