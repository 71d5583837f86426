"""The scripted platform and the scripted engine, watched closer, and an adapter that can die.

In: the calls of a service. Out: the same answers as ever, and a record: which reply met which fault, when each event
was acknowledged, what every prompt held.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

from bot.types.engine import EngineRequest
from bot.types.messages import ConversationKey, Event, Reply, TokenDelta
from tests.support.fakes.engine import Script, ScriptedEngine
from tests.support.fakes.platform import ScriptedAdapter
from tests.support.fakes.wire import Line, unpacked
from tests.support.fakes.world import Fault, World, _Planned

NEVER = 1 << 30


class Witness(World):
    """A World that remembers more."""

    def __init__(self, *, redelivers: bool) -> None:
        super().__init__(redelivers=redelivers)
        self.hit: defaultdict[str, set[Fault]] = defaultdict(set)  # faults, by the request whose reply they struck
        self.acknowledged: dict[int, int] = {}  # by event: how many events there had been
        self.gone: set[ConversationKey] = set()  # conversations that were deleted

    def when(self, number: int) -> int:
        """How many events there had been when this one was acknowledged, the first time."""
        return self.acknowledged.get(number, NEVER)

    def unacknowledged(self) -> set[int]:
        """The events that are to come again."""
        return set(self._pending)

    def event(self, number: int) -> Event:
        """What was sent."""
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

    def _fault(self, call: str, value: object) -> _Planned | None:
        planned = super()._fault(call, value)
        if planned is not None and isinstance(value, Reply):
            self.hit[value.request_id].add(planned.fault)
        return planned


class Mortal(ScriptedAdapter):
    """An adapter whose process can be killed."""

    @property
    def handling(self) -> bool:
        """Whether some event is being handled."""
        return bool(self._handling)

    def dies(self) -> None:
        """From now on nothing is sent and nothing is heard."""
        self._closed.set()
        if self._writer is not None:
            self._writer.transport.abort()


class WatchedEngine(ScriptedEngine):
    """Tells `reading` of every request that begins, and `dying` of every death. Some words of a question are orders.

    poison: the process always dies of it. unlucky: this request fails.
    """

    def __init__(
        self, reading: Callable[[EngineRequest], None], dying: Callable[[], None], pace: Callable[[], float]
    ) -> None:
        super().__init__(self._keep_pace, max_running=2)
        self._reading, self._dying, self._pace = reading, dying, pace

    async def stream(self, request: EngineRequest) -> AsyncIterator[TokenDelta]:
        """As a scripted engine does."""
        self._reading(request)
        async for delta in super().stream(request):
            yield delta

    def die(self) -> None:
        """The process is gone."""
        if self.loaded and not self.closed:
            self._dying()
        super().die()

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
