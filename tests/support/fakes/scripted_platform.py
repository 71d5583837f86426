"""The scripted platform: stores what users see, answers a ScriptedAdapter's calls over a socket, and injects faults.

Repeats an event on every new connection until it is acknowledged, and when a test asks for it. Records every version of
every message.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

from bot.types.messages import ActionKind, ConversationKey, Event, IncomingMessage, Outcome, Reply
from tests.support.fakes.gates import Gates
from tests.support.fakes.wire import Line, packed, receive, send, unpacked

LIMIT = 1 << 20
"""Longest line, in bytes."""


class Fault(StrEnum):
    """What may happen to a call."""

    RETRY = "retry"  # rejected for now
    REJECTED = "rejected"  # rejected permanently
    GONE = "gone"  # its message or channel does not exist any more
    BROKEN = "broken"  # the adapter raises an unexpected exception
    LOST = "lost"  # applied, but the connection is cut before the response
    CUT = "cut"  # not applied, and the connection is cut
    DONE_SILENT = "done, silent"  # applied, but no response comes
    SILENT = "silent"  # not applied, and no response comes


@dataclass(slots=True)
class Posted:
    """A message of the bot. `history` is every text that it had, oldest first."""

    id: str
    reply: Reply
    history: list[str] = field(default_factory=list)
    deleted: bool = False

    def show(self, reply: Reply) -> None:
        """Shows a new version."""
        self.reply = reply
        self.history.append(reply.committed + reply.tail)

    @property
    def text(self) -> str:
        """The current text."""
        return self.history[-1]

    @property
    def buttons(self) -> tuple[ActionKind, ...]:
        """The current buttons."""
        return self.reply.buttons


@dataclass(slots=True)
class PlannedFault:
    call: str
    fault: Fault
    seconds: float
    only: Callable[[Reply], bool]


class ScriptedPlatform:
    """The platform's side; an async context manager that runs its server on `port`.

    redelivers: sends an event until it is acknowledged; else once to the current connections, and backfill can fetch
    it.
    """

    def __init__(self, *, redelivers: bool = True) -> None:
        self.redelivers = redelivers
        self.posted: list[Posted] = []
        self.statuses: list[tuple[ConversationKey, str]] = []
        self.calls: Counter[str] = Counter()  # by name
        self.deliveries: Counter[int] = Counter()  # by the number of the event
        self.outcomes: dict[int, Outcome] = {}
        self.errors: dict[int, list[str]] = {}  # exceptions that the bot raised instead of acknowledging
        self.gates = Gates()
        self.said: list[Line] = []  # every event, in order
        self._pending: set[int] = set()
        self._faults: deque[PlannedFault] = deque()
        self.struck: list[Fault] = []  # faults that happened
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.patience_s = 20.0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", limit=LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.sleep(0)  # the handler of a connection that was accepted last begins
        while self._tasks:
            tasks = [*self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks.difference_update(tasks)
        await self._server.wait_closed()

    async def send(self, event: Event) -> int:
        """Sends an event; its number."""
        number = len(self.said)
        self.said.append({"event": number, **packed(event)})
        if self.redelivers:
            self._pending.add(number)
        await self.deliver(number)
        return number

    async def deliver_again(self, number: int) -> Outcome:
        """Sends an event again, acknowledged or not; the bot's outcome."""
        self._pending.add(number)
        self.outcomes.pop(number, None)
        await self.deliver(number)
        return await self.outcome(number)

    async def outcome(self, number: int) -> Outcome:
        """Waits until an event is acknowledged; the bot's outcome."""
        await self.until(lambda: number in self.outcomes, f"event {number} is acknowledged")
        return self.outcomes[number]

    def fails(
        self,
        call: str,
        fault: Fault,
        times: int = 1,
        *,
        seconds: float = 0.02,
        only: Callable[[Reply], bool] | None = None,
    ) -> None:
        """Injects a fault into the next `times` calls of that name (with replies for which `only` is true)."""
        self._faults.extend([PlannedFault(call, fault, seconds, only or (lambda _: True))] * times)

    def forgets_faults(self) -> None:
        """Removes all planned faults."""
        self._faults.clear()

    def forget_acknowledgement(self, number: int) -> None:
        """Treats an event as unacknowledged: it is sent again on the next connection."""
        self._pending.add(number)

    @property
    def here(self) -> bool:
        """Whether the bot is connected."""
        return bool(self._writers)

    def cut(self) -> None:
        """Aborts every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def connected(self) -> None:
        """Waits until the bot is connected."""
        await self.until(lambda: self.here, "the bot is connected")

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Waits until a condition is true. Raises AssertionError with all messages after `patience_s`."""
        try:
            async with asyncio.timeout(self.patience_s):
                while not holds():  # noqa: ASYNC110  polls state that another process changes
                    await asyncio.sleep(0.005)
        except TimeoutError:
            there = "\n".join(f"  {message.id}: {message.history}" for message in self.posted)
            raise AssertionError(f"waited in vain until {what}; the platform shows\n{there}") from None

    async def deliver(self, number: int) -> None:
        for writer in tuple(self._writers):
            self.deliveries[number] += 1
            with contextlib.suppress(ConnectionError):
                await send(writer, self.said[number])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        answering: set[asyncio.Task[None]] = set()
        try:
            for number in sorted(self._pending):
                self.deliveries[number] += 1
                await send(writer, self.said[number])
            while (line := await receive(reader)) is not None:
                if "call" in line:
                    answering.add(asyncio.create_task(self._answer(line, writer)))
                else:
                    self._hear(line)
        except ConnectionError:
            return  # the bot was killed
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            for call in answering:  # the caller has disconnected
                call.cancel()
            await asyncio.gather(*answering, return_exceptions=True)
            writer.close()

    def _hear(self, line: Line) -> None:
        """Records the acknowledgement or the error of an event."""
        number = line["event"]
        if "error" in line:
            self.errors.setdefault(number, []).append(line["error"])
            return
        self._pending.discard(number)
        self.outcomes[number] = unpacked(line["outcome"])

    async def _answer(self, line: Line, writer: asyncio.StreamWriter) -> None:
        call = line["call"]
        self.calls[call] += 1
        value = unpacked(line["value"]) if "value" in line else None
        fault = self._fault(call, value)
        if fault is None or fault.fault in (Fault.LOST, Fault.DONE_SILENT):
            answer = await self._do(call, value, line)
        else:
            answer = {"error": fault.fault, "seconds": fault.seconds}
        if fault is not None and fault.fault in (Fault.SILENT, Fault.DONE_SILENT):
            return
        if fault is not None and fault.fault in (Fault.LOST, Fault.CUT):
            writer.transport.abort()
            return
        with contextlib.suppress(ConnectionError):
            await send(writer, {"answer": line["id"], **answer})

    def _fault(self, call: str, value: object) -> PlannedFault | None:
        for planned in self._faults:
            if planned.call == call and (not isinstance(value, Reply) or planned.only(value)):
                self._faults.remove(planned)
                self.struck.append(planned.fault)
                return planned
        return None

    def _since(self, key: object, after: str) -> list[Line]:
        """The messages of a channel after a given one, oldest first."""
        events = [(unpacked(line), line) for line in self.said]
        said = [
            (event, line) for event, line in events if isinstance(event, IncomingMessage) and place_of(event) == key
        ]
        said.sort(key=lambda pair: pair[0].sent_at)
        begin = next(number for number, (event, _) in enumerate(said) if event.message_id == after)
        return [line for _, line in said[begin + 1 :]]

    async def _do(self, call: str, value: Reply | ConversationKey | None, line: Line) -> Line:
        """Executes a call without a fault."""
        if call == "pass":
            await self.gates.passing(line["point"])
            return {}
        if call == "status":
            assert isinstance(value, ConversationKey)
            self.statuses.append((value, line["text"]))
            return {}
        if call == "since":
            await self.gates.passing(call)
            return {"events": self._since(value, line["after"])[: line["limit"]]}
        assert isinstance(value, Reply)
        await self.gates.passing(call)
        if call == "post":
            self.posted.append(Posted(f"post-{len(self.posted)}", value))
            self.posted[-1].show(value)
            return {"id": self.posted[-1].id}
        if call == "find":
            found = [message.id for message in self.posted if message.reply.reply_id == value.reply_id]
            return {"id": found[-1] if found else None}
        assert call == "update"
        message = next(message for message in self.posted if message.id == value.platform_id)
        if message.deleted:
            return {"error": Fault.GONE, "seconds": 0}
        message.show(value)
        return {}


def place_of(event: IncomingMessage) -> ConversationKey:
    """The channel of a message; a message that starts a thread belongs to the channel."""
    return replace(event.key, thread="") if event.key.thread == event.message_id else event.key
