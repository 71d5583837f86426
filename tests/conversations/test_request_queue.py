"""Tests the request queue: limits, fairness between users, grouping by model, positions, deadlines."""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.conversations.request_queue import MODEL_RUN
from bot.conversations.service_order import person_key
from bot.types.errors import QueueFull
from bot.types.messages import RequestStatus
from tests.support.builders.request_line import Line

PEOPLE = ["ana", "ben", "cleo", "dan"]


def test_a_person_who_has_enough_waiting_is_refused_and_others_are_not() -> None:
    line = Line(per_user=2)
    line.asks("ana")
    line.asks("ana")
    with pytest.raises(QueueFull, match="2 questions waiting"), line.queue.place_for(("scripted", "ana")):
        pytest.fail("there was a place")
    with line.queue.place_for(("scripted", "ben")):
        pass


def test_when_too_many_wait_every_user_is_refused() -> None:
    line = Line(size=2)
    line.asks("ana")
    line.asks("ben")
    with pytest.raises(QueueFull, match="2 questions are waiting"), line.queue.place_for(("scripted", "cleo")):
        pytest.fail("there was a place")


def test_a_place_that_is_held_counts_until_it_is_given_back() -> None:
    line = Line(size=2, per_user=1)
    with line.queue.place_for(("scripted", "ana")):
        with pytest.raises(QueueFull), line.queue.place_for(("scripted", "ana")):
            pytest.fail("ana has one already")
        ben, cleo = line.queue.place_for(("scripted", "ben")), line.queue.place_for(("scripted", "cleo"))
        with ben, pytest.raises(QueueFull), cleo:
            pytest.fail("both are taken")
    with pytest.raises(StopAsyncIteration), line.queue.place_for(("scripted", "ana")):
        raise StopAsyncIteration  # simulates a storage failure
    with line.queue.place_for(("scripted", "ana")):
        pass


def test_what_is_released_for_the_next_start_keeps_its_place() -> None:
    """Otherwise each restart stores as many more requests as the queue takes."""
    line = Line(size=2)
    line.asks("ana")
    line.asks("ben")
    assert len(line.queue.release()) == 2
    with pytest.raises(QueueFull, match="2 questions are waiting"), line.queue.place_for(("scripted", "cleo")):
        pytest.fail("there was a place")


async def test_the_running_do_not_count_as_waiting() -> None:
    line = Line(size=1, per_user=1)
    line.asks("ana")
    await line.starts()
    with line.queue.place_for(("scripted", "ana")):
        pass


async def test_one_request_of_a_conversation_runs_at_a_time_in_the_order_of_arrival() -> None:
    line = Line()
    first, second = line.asks("ana", "general"), line.asks("ben", "general")
    assert await line.starts() == first.request_id
    waiting = asyncio.create_task(line.starts())
    await asyncio.sleep(0)
    elsewhere = line.asks("ana", "random")
    assert await waiting == elsewhere.request_id
    line.finishes(first)
    assert await line.starts() == second.request_id
    assert {request.request_id for request in line.queue.running()} == {second.request_id, elsewhere.request_id}


async def test_a_flood_of_one_person_does_not_hold_up_the_next() -> None:
    line = Line()
    for _ in range(500):
        line.asks("ana")
    ben = line.asks("ben")
    served = [(await line.serves()).request_id for _ in range(2)]
    assert ben.request_id in served


@given(st.lists(st.one_of(st.sampled_from(PEOPLE), st.none()), max_size=60))
async def test_no_first_request_is_overtaken_twice_by_the_same_person(story: list[str | None]) -> None:
    """A name: that user asks. None: one request is served."""
    line = Line()
    overtaken: dict[str, Counter[str]] = {}  # by waiting request: the users who were served before it
    for who in [*story, *[None] * len(story)]:
        if who is not None:
            others = {request.author.id for request in line.queue.waiting()}
            request = line.asks(who)
            if who not in others:
                overtaken[request.request_id] = Counter()
        elif line.queue.waiting():
            served = await line.serves()
            overtaken.pop(served.request_id, None)
            nexts = [request for request in line.queue.waiting() if request.author == served.author]
            for counts in overtaken.values():
                counts[served.author.id] += 1
                assert counts[served.author.id] <= 1
            if nexts:
                overtaken[nexts[0].request_id] = Counter()
    assert not line.queue.waiting()


@given(st.lists(st.tuples(st.sampled_from(PEOPLE), st.sampled_from(["small", "large"])), max_size=60))
async def test_models_take_turns_and_none_waits_longer_than_a_run(asked: list[tuple[str, str]]) -> None:
    line = Line()
    for who, model in asked:
        line.asks(who, model=model)
    order = await line.empties()
    assert Counter(request.request_id for request in order) == Counter(
        f"{who}-{number}" for number, (who, _) in enumerate(asked, 1)
    )
    runs: list[list[str]] = []
    for request in order:
        if not runs or runs[-1][0] != request.model:
            runs.append([])
        runs[-1].append(request.model)
    for run in runs[:-1]:
        assert len(run) <= MODEL_RUN + 1, "a model starved the other"
    for run in runs[1:-2]:
        assert len(run) >= MODEL_RUN, "the models thrashed although more of the same waited"


async def test_a_lone_request_for_another_model_waits_for_a_bounded_run_of_newcomers() -> None:
    line = Line()
    line.asks("ana", model="large")
    served = []
    for _ in range(MODEL_RUN + 1):
        line.asks("ben")
        served.append((await line.serves("small")).model)
    assert served == ["small"] * MODEL_RUN + ["large"]


@given(st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=30), st.integers(0, 10))
async def test_the_place_that_is_told_is_the_place_in_which_one_is_served(people: list[str], before: int) -> None:
    line = Line()
    for who in people:
        line.asks(who)
    for _ in range(min(before, len(people) - 1)):
        await line.serves()
    told = line.places()
    order = await line.empties()
    assert [told[request.request_id].number for request in order] == list(range(1, len(order) + 1))


@given(st.lists(st.sampled_from(PEOPLE), min_size=1, max_size=30), st.integers(1, 4))
async def test_places_are_right_for_users_with_a_running_request_too(people: list[str], slots: int) -> None:
    line = Line()
    for who in people:
        line.asks(who)
    running = [await asyncio.wait_for(line.queue.get("small"), 5) for _ in people[:slots]]
    told = line.places(slots=slots)
    order = []
    while line.queue.waiting():
        line.finishes(running.pop(0))
        running.append(await asyncio.wait_for(line.queue.get("small"), 5))
        order.append(running[-1].request_id)
    assert {request_id: place.number for request_id, place in told.items()} == {
        request_id: number for number, request_id in enumerate(order, 1)
    }


@pytest.mark.fault(38)
def test_what_waited_too_long_is_taken_out_whatever_the_wall_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    late, patient = line.asks("ana", waits=10), line.asks("ben", waits=30)
    an_hour_ago = time.time() - 3600
    monkeypatch.setattr(time, "time", lambda: an_hour_ago)
    line.clock.now += 9
    assert line.queue.expired() == []
    line.clock.now += 2
    assert [request.request_id for request in line.queue.expired()] == [late.request_id]
    assert [request.request_id for request in line.queue.waiting()] == [patient.request_id]


async def test_the_seconds_left_go_with_a_request_wherever_it_goes() -> None:
    line = Line()
    first, second = line.asks("ana", waits=10), line.asks("ben", waits=10)
    line.clock.now += 4
    taken = await line.queue.get("small")
    assert (taken.request_id, taken.wait_left_s) == (first.request_id, 6)
    assert [(left.request_id, left.wait_left_s) for left in line.queue.release()] == [(second.request_id, 6)]
    assert line.queue.of_conversation(second.key) == []
    assert line.queue.running() == [taken]
    line.clock.now += 100
    line.queue.requeue(replace(taken, attempts=1))
    line.clock.now += 5
    assert line.queue.expired() == []
    line.clock.now += 2
    assert [person_key(request) for request in line.queue.expired()] == [("scripted", "ana")]


ENDED = {RequestStatus.FINISHED, RequestStatus.FAILED, RequestStatus.CANCELLED}


@given(st.lists(st.sampled_from(["put", "get", "run", "requeue", "finish", "fail", "stop"]), max_size=60), st.randoms())
async def test_a_request_is_in_one_status_at_any_time_and_a_stop_finds_it_in_each(
    steps: list[str], random: Random
) -> None:
    line, known = Line(), dict[str, RequestStatus]()
    for step in steps:
        now = [request_id for request_id, status in known.items() if status not in ENDED]
        taken = [each for each in now if known[each] in (RequestStatus.STARTING, RequestStatus.RUNNING)]
        chosen = random.choice(now) if now else ""
        if step == "put":
            known[line.asks(random.choice(PEOPLE)).request_id] = RequestStatus.WAITING
        elif step == "get" and set(now) - set(taken):
            known[await line.starts()] = RequestStatus.STARTING
        elif step == "run" and known.get(chosen) is RequestStatus.STARTING:
            assert line.queue.run(chosen)
            known[chosen] = RequestStatus.RUNNING
        elif step == "requeue" and chosen in taken:
            request = next(each for each in line.queue.running() if each.request_id == chosen)
            line.queue.requeue(replace(request, attempts=request.attempts + 1))
            known[chosen] = RequestStatus.REQUEUED
        elif step == "finish" and known.get(chosen) is RequestStatus.RUNNING:
            line.queue.end(chosen, RequestStatus.FINISHED)
            known[chosen] = RequestStatus.FINISHED
        elif step == "fail" and chosen in taken:
            line.queue.end(chosen, RequestStatus.FAILED)
            known[chosen] = RequestStatus.FAILED
        elif step == "stop" and chosen:
            running = known[chosen] is RequestStatus.RUNNING
            assert line.queue.request_stop(chosen) == running
            assert (line.queue.cancel(chosen) is None) == running
            assert line.queue.stop_requested(chosen) == running
            known[chosen] = known[chosen] if running else RequestStatus.CANCELLED
        unfinished = {each: status for each, status in known.items() if status not in ENDED}
        assert {each: line.queue.status(each) for each in known} == {**dict.fromkeys(known), **unfinished}
        listed = [request.request_id for request in (*line.queue.running(), *line.queue.waiting())]
        assert sorted(listed) == sorted(unfinished)
        assert line.places().keys() == {request.request_id for request in line.queue.waiting()}


def test_a_change_that_the_table_does_not_have_is_a_bug() -> None:
    line = Line()
    request = line.asks("ana")
    with pytest.raises(RuntimeError, match="cannot change from waiting to finished"):
        line.queue.end(request.request_id, RequestStatus.FINISHED)
    assert line.queue.waiting() == [request]


async def test_a_requeued_request_is_served_before_later_ones_of_its_conversation() -> None:
    line = Line()
    first, second = line.asks("ana", "general", model="large"), line.asks("ben", "general")
    taken = await line.queue.get("small")
    assert taken.request_id == first.request_id, "another model of the same conversation is loaded, but it came first"
    line.queue.requeue(replace(taken, attempts=1))
    assert [request.request_id for request in await line.empties()] == [first.request_id, second.request_id]


async def test_room_is_there_as_soon_as_one_of_the_waiters_begins_or_leaves() -> None:
    line = Line(size=3, per_user=2)
    _, second = line.asks("ana"), line.asks("ana")
    mine, another = (asyncio.create_task(line.queue.wait_for_place(("scripted", who))) for who in ("ana", "ben"))
    await another
    third = line.asks("ben")
    other = asyncio.create_task(line.queue.wait_for_place(("scripted", "cleo")))
    await asyncio.sleep(0)
    assert not mine.done()
    assert not other.done()
    await line.starts()
    await asyncio.gather(mine, other)
    line.asks("ana")
    mine = asyncio.create_task(line.queue.wait_for_place(("scripted", "ana")))
    line.queue.cancel(third.request_id)
    await asyncio.sleep(0)
    assert not mine.done()
    line.queue.cancel(second.request_id)
    await mine


async def test_room_is_there_as_soon_as_a_reserved_place_is_given_back() -> None:
    line = Line(per_user=1)
    with line.queue.place_for(("scripted", "ana")):
        mine = asyncio.create_task(line.queue.wait_for_place(("scripted", "ana")))
        await asyncio.sleep(0)
        assert not mine.done()
    async with asyncio.timeout(5):
        await mine


async def test_the_places_are_the_order_in_which_all_are_served() -> None:
    line = Line()
    for number in range(60):
        line.asks(PEOPLE[number * 7 % 4], f"channel {number * 5 % 11}")
    places = sorted(line.places().items(), key=lambda each: each[1].number)
    assert [request_id for request_id, _ in places] == [request.request_id for request in await line.empties()]


@pytest.mark.fault(50)
def test_the_places_of_ten_times_as_many_take_about_ten_times_as_long() -> None:
    def seconds(waiting: int) -> float:
        line = Line(size=waiting)
        for number in range(waiting):
            line.asks(f"person {number % (waiting // 5)}", f"channel {number % (waiting // 4)}")
        began = time.process_time()
        assert len(line.places()) == waiting
        return time.process_time() - began

    few, many = min(seconds(200) for _ in range(5)), min(seconds(2000) for _ in range(3))
    assert many / few < 30  # 100 would be quadratic: each position computed from all requests
