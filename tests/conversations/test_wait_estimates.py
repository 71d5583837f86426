"""Tests the estimated seconds until each waiting request is answered."""

from dataclasses import replace

from bot.conversations.queue_entries import Place
from tests.support.builders.request_line import Line


async def test_an_estimate_comes_from_measured_answers_and_the_time_of_a_load() -> None:
    line = Line()
    first, second, third = line.asks("ana"), line.asks("ben"), line.asks("cleo", model="large")
    assert line.places()[first.request_id] == Place(1, None)
    assert await line.starts() == first.request_id
    line.finishes(first, 10.0)
    assert line.places(load_seconds=60.0)[second.request_id] == Place(1, 10.0)
    assert line.places(slots=2)[second.request_id] == Place(1, 5.0)
    assert line.places()[third.request_id] == Place(2, None)
    await line.serves()
    assert await line.starts("large") == third.request_id
    line.finishes(third, 20.0)
    fourth = line.asks("dan", model="large")
    assert line.places(load_seconds=60.0)[fourth.request_id] == Place(1, 80.0)


async def test_a_failed_answer_teaches_nothing_about_speed() -> None:
    line = Line()
    first = line.asks("ana")
    await line.starts()
    line.finishes(first)
    assert line.places() == {}
    second = line.asks("ana")
    assert line.places()[second.request_id].seconds is None


async def test_an_estimate_grows_while_an_answer_takes_longer_than_earlier_ones() -> None:
    line = Line()
    first, second, third = line.asks("ana"), line.asks("ben"), line.asks("cleo")
    await line.starts()
    line.finishes(first, 5.0)
    await line.starts()
    line.queue.run(second.request_id)
    assert line.places()[third.request_id] == Place(1, 5.0)
    line.clock.now += 660
    assert line.places()[third.request_id] == Place(1, 660.0)


async def test_an_estimate_keeps_growing_over_retries_until_an_answer_ends() -> None:
    line = Line()
    first, second, third = line.asks("ana"), line.asks("ben", "room"), line.asks("ben", "room")
    await line.starts()
    line.finishes(first, 5.0)
    taken = await line.queue.get("small")
    for attempt in (1, 2):
        line.queue.run(second.request_id)
        line.clock.now += 100
        taken = replace(taken, attempts=attempt)
        line.queue.requeue(taken)
        taken = await line.queue.get("small")
    assert line.places()[third.request_id] == Place(1, 200.0)
    line.finishes(taken)
    line.clock.now += 50
    assert line.places()[third.request_id] == Place(1, 5.0)


async def test_one_long_answer_does_not_raise_the_estimate_while_others_end() -> None:
    line = Line()
    requests = [line.asks(who) for who in ("ana", "ben", "cleo", "dan")]
    await line.starts()
    line.finishes(requests[0], 5.0)
    await line.starts()
    line.queue.run(requests[1].request_id)
    await line.starts()
    line.clock.now += 60
    line.finishes(requests[2], 5.0)
    assert line.places(slots=2)[requests[3].request_id] == Place(1, 2.5)


async def test_time_until_the_engine_can_run_counts_towards_every_estimate() -> None:
    line = Line()
    first, second, third = line.asks("ana"), line.asks("ben"), line.asks("cleo")
    await line.starts()
    line.finishes(first, 10.0)
    places = dict(line.queue.iter_places("small", 1, lambda _: 0.0, delay_s=60.0))
    assert places == {second.request_id: Place(1, 70.0), third.request_id: Place(2, 80.0)}
