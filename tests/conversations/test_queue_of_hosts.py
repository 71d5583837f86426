"""Tests the queues of several hosts: what each knows of the others, and that no request runs twice."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from bot.conversations.queue_entries import Place
from bot.conversations.request_queue import RequestQueue
from bot.types.errors import QueueFull
from bot.types.messages import ConversationKey, GenerationRequest, Person, RequestStatus, SamplingParams

ANA = Person("ana", "Ana")


def asked(number: int, channel: str = "", who: Person = ANA) -> GenerationRequest:
    """A stored request."""
    return GenerationRequest(
        request_id=f"request-{number}",
        key=ConversationKey("scripted", "team", channel or f"channel-{number}"),
        message_id=f"message-{number}",
        author=who,
        model="small",
        params=SamplingParams(),
        attempts=0,
        accepted_at=float(number),
        wait_left_s=600.0,
        number=number,
    )


def queue_with(*others: GenerationRequest, clock: Callable[[], float] = lambda: 0.0) -> RequestQueue:
    """A queue that may take all requests of the host `b`, which holds `others`."""
    queue = RequestQueue(100, 100, clock)
    queue.may_take = lambda request, host: True
    mirror(queue, *others)
    return queue


def mirror(
    queue: RequestQueue, *others: GenerationRequest, running: bool = False, known: set[str] | None = None
) -> None:
    """Has a queue note that the host `b` holds these requests only."""
    rows = {request.request_id: (request, "b", running) for request in others}
    queue.mirror(rows, queue.mirrored() if known is None else known)


async def start(queue: RequestQueue) -> GenerationRequest:
    """The next request, which is STARTING then."""
    return await asyncio.wait_for(queue.get("small"), 5)


def free(queue: RequestQueue, person: Person = ANA) -> bool:
    """Whether no place of a user is taken."""
    queue.bound(1, 1)
    try:
        with queue.place_for(("scripted", person.id)):
            return True
    except QueueFull:
        return False


def test_requests_of_others_take_places_and_are_forgotten_when_they_end() -> None:
    queue = queue_with(asked(1), asked(2))
    queue.put(asked(3))
    assert queue.places("small", 1, lambda _: 0.0).keys() == {"request-1", "request-2", "request-3"}
    assert not free(queue)
    mirror(queue, asked(1), running=True)
    assert [request.number for request in queue.running()] == [1]
    assert queue.places("small", 1, lambda _: 0.0) == {"request-3": Place(1, None)}
    mirror(queue)
    queue.end("request-3", RequestStatus.CANCELLED)
    assert free(queue)


def test_what_came_while_the_database_was_read_is_not_forgotten() -> None:
    queue = queue_with()
    known = queue.mirrored()
    queue.put(asked(1), "b")
    mirror(queue, known=known)
    assert queue.host_of("request-1") == "b"


async def test_a_request_that_is_put_twice_is_here_once() -> None:
    queue = queue_with()
    for _ in range(2):
        queue.put(asked(1))
    mirror(queue, asked(2))
    queue.put(asked(2), "b")
    queue.put(asked(1), "b")
    await start(queue)
    queue.put(asked(1))
    assert queue.status("request-1") is RequestStatus.STARTING
    queue.end("request-1", RequestStatus.CANCELLED)
    mirror(queue)
    assert free(queue)


async def test_requests_of_several_hosts_are_served_in_order() -> None:
    queue = queue_with(asked(1, "x"), asked(4, "y"))
    queue.put(asked(2, "x"))
    queue.put(asked(3, "y"))
    assert [(await start(queue)).number for _ in range(2)] == [1, 3]
    queue.put_back("request-1")
    assert (await start(queue)).number == 1


async def test_a_host_that_may_not_hand_over_is_asked_last_and_for_one_request_at_a_time() -> None:
    queue = queue_with(asked(1), asked(2))
    queue.is_doubted = lambda host: host == "b"
    queue.put(asked(3))
    assert [(await start(queue)).number for _ in range(2)] == [3, 1]
    getting = asyncio.create_task(queue.get("small"))
    await asyncio.sleep(0.01)
    assert not getting.done()
    queue.put_back("request-1")
    assert (await getting).number == 1


async def test_what_a_host_lends_waits_here_again_if_it_is_not_taken() -> None:
    now = 0.0
    queue = queue_with(clock=lambda: now)
    queue.put(asked(1))
    now = 100.0
    assert queue.lend(asked(1), "b")
    assert not queue.lend(asked(1), "b")
    mirror(queue)  # in the database, this host still holds it
    assert queue.status("request-1") is RequestStatus.RUNNING
    assert queue.cancel("request-1") is None
    now = 300.0
    back = queue.take_back("request-1")
    assert back is not None
    assert back.wait_left_s == 500.0  # nobody waits for this host meanwhile
    assert queue.take_back("request-1") is None
    assert queue.seconds_left() == {"request-1": 500.0}


async def test_what_was_handed_over_belongs_to_the_other_host() -> None:
    queue = queue_with()
    queue.put(asked(1))
    assert queue.lend(asked(1), "b")
    queue.handed_over("request-1")
    assert queue.take_back("request-1") is None
    mirror(queue, asked(1), running=True)
    assert queue.host_of("request-1") == "b"
    mirror(queue)
    assert queue.status("request-1") is None
    assert queue.was_here("request-1")


async def test_what_is_being_taken_is_held_once_it_was_handed_over_or_its_host_has_died() -> None:
    queue = queue_with(asked(1), asked(2))
    assert not queue.lend(asked(1), "c")
    for number in (1, 2):
        assert (await start(queue)).number == number
    mirror(queue)
    assert queue.status("request-1") is RequestStatus.STARTING
    assert queue.starting() == []
    assert queue.hold("request-1") == asked(1)
    assert queue.hold("request-1") == asked(1)
    queue.put(asked(2))  # this host rescued it
    assert [request.number for request in queue.starting()] == [1, 2]
    assert queue.cancel("request-1") == asked(1)
    assert queue.hold("request-1") is None
    assert queue.run("request-2")


def test_an_answer_that_another_host_writes_does_not_make_estimates_grow() -> None:
    now = 0.0
    queue = queue_with(clock=lambda: now)
    for seconds in (90.0, 10.0):
        queue.answer_times.learn("small", seconds)
    mirror(queue, asked(1), running=True)
    queue.put(asked(2))
    queue.put(asked(3))
    queue.cancel("request-2")
    now = 5000.0
    assert queue.places("small", 1, lambda _: 0.0) == {"request-3": Place(1, 10.0)}
    assert queue.answer_times.of("small") is None


@dataclass(slots=True)
class Row:
    """A request in the database."""

    request: GenerationRequest
    host: str
    taker: str = ""
    running: bool = False


@dataclass(slots=True)
class Side:
    """A host: its queue, a look whose result it has not noted yet, and what it lends, takes and writes."""

    name: str
    queue: RequestQueue
    look: tuple[set[str], set[str], list[Row]] | None = None
    lends: dict[str, tuple[str, bool]] = field(default_factory=dict)
    takes: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)


class Pair:
    """Two hosts on one database, whose steps come in any order."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.sides = [self.begin(name) for name in "ab"]
        self.count = 0
        self.ended: Counter[str] = Counter()
        self.order: list[GenerationRequest] = []  # as they were started

    @staticmethod
    def begin(name: str) -> Side:
        queue = RequestQueue(1000, 1000, lambda: 0.0)
        queue.may_take = lambda request, host: True
        return Side(name, queue)

    def ask(self, side: Side, other: Side, number: int) -> None:
        self.count += 1
        request = asked(self.count, f"channel-{number % 3}", Person(f"person-{number % 2}", ""))
        holder = "" if number % 4 else other.name
        self.rows[request.request_id] = Row(request, holder or side.name)
        side.queue.put(request, holder)

    def read(self, side: Side, *_: object) -> None:
        if side.look is None:
            rows = [replace(row) for row in self.rows.values()]
            side.look = (side.queue.mirrored(), set(side.takes), rows)

    def note(self, side: Side, *_: object) -> None:
        if side.look is None:
            return
        (known, taken, rows), side.look = side.look, None
        others = {row.request.request_id: (row.request, row.host, row.running) for row in rows if row.host != side.name}
        side.queue.mirror(others, known)
        for row in rows:
            request_id = row.request.request_id
            if row.host != side.name:
                continue
            if row.taker not in ("", side.name):
                is_new = side.queue.status(request_id) is None
                if request_id not in side.lends and side.queue.lend(row.request, row.taker):
                    side.lends[request_id] = (row.taker, is_new)
            elif row.running and request_id in side.takes:
                side.takes.discard(request_id)
                if side.queue.hold(request_id) is not None:
                    self.begin_writing(side, request_id)
            elif not row.running and side.queue.status(request_id) is None and not side.queue.was_here(request_id):
                side.queue.put(row.request)
        mine = {row.request.request_id for row in rows if row.running and row.taker == side.name}
        for request_id in (taken & side.takes) - mine:
            side.takes.discard(request_id)
            side.queue.put_back(request_id)

    async def take(self, side: Side, *_: object) -> None:
        getting = asyncio.create_task(side.queue.get("small"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if not getting.done():
            getting.cancel()
            return
        request_id = getting.result().request_id
        row = self.rows.get(request_id)
        busy = row is not None and any(
            each.request.key == row.request.key and (each.running or each.request.number < row.request.number)
            for each in self.rows.values()
        )
        if row is None or row.running or busy:
            side.queue.put_back(request_id)
            return
        row.running, row.taker = True, side.name
        if side.queue.host_of(request_id):
            side.takes.add(request_id)
        else:
            self.begin_writing(side, request_id)

    def begin_writing(self, side: Side, request_id: str) -> None:
        writing = {one for each in self.sides for one in each.writes}
        assert request_id not in writing, "it runs twice"
        key = self.rows[request_id].request.key
        assert key not in {self.rows[each].request.key for each in writing}, "two of one conversation"
        assert side.queue.run(request_id)
        side.writes.add(request_id)
        self.order.append(self.rows[request_id].request)

    def hand_over(self, side: Side, *_: object) -> None:
        for request_id, (taker, is_new) in list(side.lends.items())[:1]:
            del side.lends[request_id]
            row = self.rows.get(request_id)
            if row is not None and row.running and (row.host, row.taker) == (side.name, taker):
                row.host = taker
                side.queue.handed_over(request_id)
            elif is_new:
                side.queue.forget_lent(request_id)
            else:
                side.queue.take_back(request_id)

    def withdraw(self, side: Side, *_: object) -> None:
        for request_id in sorted(side.takes)[:1]:
            row = self.rows.get(request_id)
            if row is not None and row.host != side.name and row.taker == side.name:
                row.running, row.taker = False, ""
                side.takes.discard(request_id)
                side.queue.put_back(request_id)

    def finish(self, side: Side, *_: object) -> None:
        for request_id in sorted(side.writes)[:1]:
            side.writes.discard(request_id)
            self.end(request_id)
            side.queue.end(request_id, RequestStatus.FINISHED)

    def cancel(self, side: Side, _: Side, number: int) -> None:
        waiting = [request for request in side.queue.waiting() if not side.queue.host_of(request.request_id)]
        if waiting and (request := side.queue.cancel(waiting[number % len(waiting)].request_id)):
            self.end(request.request_id)

    def end(self, request_id: str) -> None:
        del self.rows[request_id]
        self.ended[request_id] += 1

    def die(self, side: Side, other: Side, _: int) -> None:
        """The other host takes over what one held, which starts anew."""
        mine = [row for row in self.rows.values() if row.host == side.name]
        for row in self.rows.values():
            if row.running and row.taker == side.name:
                row.running, row.taker = False, ""
            elif row.running and row.host == side.name:
                row.host = row.taker
        for row in mine:
            if row.host == side.name:
                row.host = other.name
            if not row.running:
                other.queue.put(row.request)
        other.look = None  # a look takes over at its end
        self.sides[self.sides.index(side)] = self.begin(side.name)

    async def step(self, chance: Random) -> None:
        side, other = chance.sample(self.sides, 2)
        steps = (self.ask, self.read, self.note, self.take, self.hand_over, self.withdraw, self.finish, self.cancel)
        (chosen,) = chance.choices((*steps, self.die), (4, 6, 6, 8, 4, 2, 4, 1, 1))
        done = chosen(side, other, chance.randrange(100))
        if done is not None:
            await done

    async def settle(self) -> None:
        """Both go on until nothing is left."""
        for _ in range(20 * (self.count + 1)):
            for side in self.sides:
                for step in (self.read, self.note, self.hand_over, self.read, self.note, self.finish):
                    step(side)
                await self.take(side)
        assert not self.rows, "a request waits for ever"
        for side in self.sides:
            self.read(side)
            self.note(side)
            assert side.queue.waiting() == side.queue.running() == []
            assert all(free(side.queue, Person(f"person-{number}", "")) for number in range(2))


@given(st.integers(0, 2**32))
def test_no_request_of_two_hosts_runs_twice_at_once_or_out_of_order_and_each_ends(seed: int) -> None:
    async def run() -> None:
        pair, chance = Pair(), Random(seed)
        for _ in range(120):
            await pair.step(chance)
        await pair.settle()
        assert sorted(pair.ended.values()) == [1] * pair.count

    asyncio.run(run())
