"""The scripted platform and engine with more records, and an adapter that can be killed.

Records which reply met which fault, when each event was acknowledged, and the contents of every prompt.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable

from bot.types.engine import EngineRequest
from bot.types.messages import ConversationKey, Event, Reply, TokenDelta
from tests.support.fakes.scripted_adapter import ScriptedAdapter
from tests.support.fakes.scripted_engine import Script, ScriptedEngine
from tests.support.fakes.scripted_platform import Fault, PlannedFault, ScriptedPlatform
from tests.support.fakes.wire import Line, unpacked

NEVER = 1 << 30


class RecordingPlatform(ScriptedPlatform):
    """A ScriptedPlatform with more records."""

    def __init__(self, *, redelivers: bool) -> None:
        super().__init__(redelivers=redelivers)
        self.hit: defaultdict[str, set[Fault]] = defaultdict(set)  # by the id of the request whose reply the fault hit
        self.acknowledged: dict[int, int] = {}  # by event: the number of events at its acknowledgement
        self.gone: set[ConversationKey] = set()  # deleted conversations

    def when(self, number: int) -> int:
        """The number of events when this one was first acknowledged."""
        return self.acknowledged.get(number, NEVER)

    def unacknowledged(self) -> set[int]:
        """The events that will be sent again."""
        return set(self._pending)

    def event(self, number: int) -> Event:
        """The event with this number."""
        found: Event = unpacked(self.said[number])
        return found

    def _hear(self, line: Line) -> None:
        super()._hear(line)
        if "error" not in line:
            self.acknowledged.setdefault(line["event"], len(self.said))

    async def _do(self, call: str, value: Reply | ConversationKey | None, line: Line) -> Line:
        key = value.key if isinstance(value, Reply) else value
        if call in ("post", "update", "since", "find") and key in self.gone:
            answer: Line = {"error": Fault.GONE, "seconds": 0}
        else:
            answer = await super()._do(call, value, line)
        if isinstance(value, Reply) and "error" in answer:
            self.hit[value.request_id].add(Fault(answer["error"]))
        return answer

    def _fault(self, call: str, value: object) -> PlannedFault | None:
        planned = super()._fault(call, value)
        if planned is not None and isinstance(value, Reply):
            self.hit[value.request_id].add(planned.fault)
        return planned


class KillableAdapter(ScriptedAdapter):
    """An adapter whose process can be killed."""

    @property
    def handling(self) -> bool:
        """Whether an event is being handled."""
        return bool(self._handling)

    def dies(self) -> None:
        """Stops sending and receiving at once."""
        self._closed.set()
        if self._writer is not None:
            self._writer.transport.abort()


class WatchedEngine(ScriptedEngine):
    """Calls `reading` for every request that starts, and `dying` for every death.

    Words in a question select faults: `poison` always kills the process, `unlucky` fails the request.
    """

    def __init__(
        self, reading: Callable[[EngineRequest], None], dying: Callable[[], None], pace: Callable[[], float]
    ) -> None:
        super().__init__(self._keep_pace, max_running=2)
        self._reading, self._dying, self._pace = reading, dying, pace

    async def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        """Reports the request, then streams as scripted."""
        self._reading(request)
        async for delta in super().stream(request):
            yield delta

    def die(self, *, external: bool = False) -> None:
        """Simulates the death of the process."""
        if self.loaded and not self.closed:
            self._dying()
        super().die(external=external)

    def _script(self, question: str, request: EngineRequest) -> Script:
        script = super()._script(question, request)
        if "poison" in question:
            script.dies_at = 1
        if "unlucky" in question:
            script.fails_at = 2
        return script

    async def _keep_pace(self, _: str) -> None:
        if pace := self._pace():
            await asyncio.sleep(pace)
