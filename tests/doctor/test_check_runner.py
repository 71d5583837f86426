"""Tests the check runner: concurrent checks, ordered output, and isolation of failing or slow checks."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

from bot.doctor.check_runner import Check, Findings, Section, blocking, run_checks
from bot.types.errors import ModelError
from bot.types.findings import Finding, State, from_error, ok, warning


def finds(*findings: Finding) -> Callable[[], Findings]:
    async def look() -> AsyncIterator[Finding]:
        for finding in findings:
            yield finding

    return look


async def made(*sections: Section, told: list[list[str]] | None = None) -> list[tuple[str, list[Finding]]]:
    waits: list[list[str]] = [] if told is None else told
    async with asyncio.timeout(10):
        return [each async for each in run_checks(sections, lambda names: waits.append(list(names)))]


async def test_sections_come_in_order_however_long_each_takes() -> None:
    second_done = asyncio.Event()

    async def slow() -> AsyncIterator[Finding]:
        await second_done.wait()
        yield ok("slow", "here")

    async def quick() -> AsyncIterator[Finding]:
        second_done.set()
        yield ok("quick", "here")

    waits: list[list[str]] = []
    found = await made(
        Section("one", [Check("slow", slow), Check("none", finds())]),
        Section("two", [Check("quick", quick)]),
        told=waits,
    )
    assert found == [("one", [ok("slow", "here")]), ("two", [ok("quick", "here")])]
    assert waits[0] == ["slow", "none", "quick"]
    assert waits[-1] == []


async def test_a_check_that_breaks_is_a_warning_and_keeps_what_it_found() -> None:
    async def breaks() -> AsyncIterator[Finding]:
        yield ok("before", "here")
        raise ZeroDivisionError("by zero")

    ((_, found),) = await made(Section("one", [Check("breaks", breaks), Check("other", finds(ok("other", "here")))]))
    assert found[0] == ok("before", "here")
    assert (found[1].check, found[1].state) == ("breaks", State.WARNING)
    assert "this check failed (ZeroDivisionError: by zero)" in found[1].found
    assert found[2] == ok("other", "here")


async def test_an_error_of_ours_is_reported_with_its_fix() -> None:
    def fails() -> list[Finding]:
        raise ModelError("It is not there: look for it.")

    ((_, found),) = await made(Section("one", [Check("fails", blocking(fails))]))
    assert found == [warning("fails", "It is not there", "Look for it.")]


async def test_a_check_that_hangs_is_given_up_and_keeps_what_it_found() -> None:
    async def hangs() -> AsyncIterator[Finding]:
        yield ok("before", "here")
        await asyncio.Event().wait()

    ((_, found),) = await made(Section("one", [Check("hangs", hangs, limit_s=0.05)]))
    assert found[0] == ok("before", "here")
    assert (found[1].state, found[1].found) == (State.WARNING, "no answer within 0 s")


async def test_a_thread_that_hangs_delays_no_other_check() -> None:
    release = threading.Event()

    def hangs() -> list[Finding]:
        release.wait(20)
        return []

    ((_, found),) = await made(Section("one", [Check("disk", blocking(hangs), limit_s=0.05)]))
    release.set()
    assert found[0].state is State.WARNING


async def test_closing_the_iterator_ends_the_checks() -> None:
    ended = asyncio.Event()

    async def waits() -> AsyncIterator[Finding]:
        try:
            await asyncio.Event().wait()
            yield ok("never", "")
        finally:
            ended.set()

    stream = run_checks(
        [Section("one", [Check("first", finds())]), Section("two", [Check("waits", waits)])], lambda _: None
    )
    async with asyncio.timeout(10):
        await anext(stream)
        await stream.aclose()
    assert ended.is_set()


def test_a_sentence_is_taken_apart_into_what_and_fix() -> None:
    assert from_error("x", State.WRONG, "A is 'b; c'; it must be d") == Finding(
        "x", State.WRONG, "A is 'b; c'", "It must be d."
    )
    assert from_error("x", State.OK, "See https://a.b/c: do it.").fix == "Do it."
    assert from_error("x", State.OK, "Just\n  this.") == ok("x", "Just this.")
