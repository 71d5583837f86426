"""Tests a blocked event loop: a thread logs its stack, and ends a process that was told to stop."""

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest

from bot.observability import loop_watchdog
from bot.observability.loop_watchdog import EX_HELD_UP, LoopWatchdog

ROOT = Path(__file__).parents[2]
LATE_S = 0.3


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lowers the delay after which a loop counts as late."""
    monkeypatch.setattr(loop_watchdog, "LATE_S", LATE_S)
    monkeypatch.setattr(loop_watchdog, "TICK_S", 0.05)


class Ends:
    """Records the end of the process: its time and exit status."""

    def __init__(self) -> None:
        self.came, self.status, self.at = threading.Event(), -1, 0.0

    def __call__(self, status: int) -> None:
        self.status, self.at = status, time.monotonic()
        self.came.set()


@contextmanager
def watched(end: Ends | None = None) -> Iterator[LoopWatchdog]:
    watchdog = LoopWatchdog(end or Ends())
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "bot.observability.loop_watchdog"]


def stands_here(seconds: float) -> None:
    secret = "private words"
    time.sleep(seconds)
    assert secret


@pytest.mark.fault(48)
async def test_a_loop_that_is_held_up_is_reported_once_with_the_place(caplog: pytest.LogCaptureFixture) -> None:
    with watched():
        await asyncio.sleep(0.2)
        stands_here(6 * LATE_S)
        await asyncio.sleep(0.3)
    held, again = lines(caplog)
    assert re.match(
        r"The event loop has been blocked for \d\.\d s at observability/test_loop_watchdog\.py:\d+ stands_here < "
        r"observability/test_loop_watchdog\.py:\d+ test_a_loop_that_is_held_up_\w+ < asyncio/events\.py:\d+ _run",
        held,
    )
    assert re.fullmatch(r"The event loop was blocked for \d\.\d s", again)
    assert "wrote" not in caplog.text


@pytest.mark.fault(48)
async def test_every_stall_is_reported_and_a_busy_loop_is_not_one(caplog: pytest.LogCaptureFixture) -> None:
    with watched():
        for _ in range(2):
            stands_here(3 * LATE_S)
            await asyncio.sleep(0.2)
        assert [line.split(" for ")[0] for line in lines(caplog)] == [
            "The event loop has been blocked",
            "The event loop was blocked",
        ] * 2
        caplog.clear()
        for _ in range(30):
            stands_here(0.03)
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
    assert lines(caplog) == []


@pytest.mark.fault(48)
async def test_code_that_lets_no_thread_run_is_reported_when_it_has_returned(caplog: pytest.LogCaptureFixture) -> None:
    letters = 18
    with watched():
        async with asyncio.timeout(60):
            while not lines(caplog):  # on a busy machine one may be taken for a suspension, which is not reported
                began = time.process_time()
                assert re.match("(a+)+$", "a" * letters + "b") is None  # in C, and twice as long per letter
                letters += time.process_time() - began < 4 * LATE_S
                await asyncio.sleep(0.2)
    told = re.search(r"blocked for (\d+\.\d) s", lines(caplog)[-1])
    assert told is not None
    assert float(told[1]) >= LATE_S


SUSPENDED = """
import asyncio, logging, sys
from bot.observability import loop_watchdog
loop_watchdog.LATE_S, loop_watchdog.TICK_S = 0.5, 0.1
logging.basicConfig(stream=sys.stdout)
async def main():
    watchdog = loop_watchdog.LoopWatchdog()
    watchdog.start()
    print("begun", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await asyncio.sleep(0.5)
asyncio.run(main())
"""


def test_a_process_that_was_suspended_was_not_held_up() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SUSPENDED], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    for _ in range(2):
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(child.pid, signal.SIGCONT)
        time.sleep(0.2)
    told, _ = child.communicate(timeout=20)
    assert told == ""


@pytest.mark.fault(48)
async def test_a_process_that_must_end_is_ended_while_its_loop_is_held_up(caplog: pytest.LogCaptureFixture) -> None:
    ends = Ends()
    with watched(ends) as watchdog:
        began = time.monotonic()
        watchdog.end_within(0.6)
        watchdog.end_within(100)
        assert ends.came.wait(20)
    assert ends.status == EX_HELD_UP
    assert ends.at - began >= 0.6
    assert lines(caplog)[-1].startswith("The process did not stop in time and is killed; its stack: ")
    assert "test_a_process_that_must_end_is_ended" in lines(caplog)[-1]


@pytest.mark.fault(48)
async def test_a_process_is_ended_even_if_the_log_lock_is_held() -> None:
    ends, handler = Ends(), logging.StreamHandler(StringIO())
    logging.getLogger("bot.observability.loop_watchdog").addHandler(handler)
    handler.acquire()
    try:
        with watched(ends) as watchdog:
            watchdog.end_within(0.1)
            assert ends.came.wait(20)
    finally:
        handler.release()
        logging.getLogger("bot.observability.loop_watchdog").removeHandler(handler)


async def test_a_loop_that_goes_on_may_finish_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = Ends()
    with watched(ends) as watchdog:
        watchdog.end_within(0.1)
        await asyncio.sleep(0.8)
        assert not ends.came.is_set()
        monkeypatch.setattr(loop_watchdog, "GRACE_S", 0.2)
        assert await asyncio.to_thread(ends.came.wait, 20)


async def test_the_thread_ends_with_the_service_and_asks_little(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, asked = asyncio.get_running_loop(), 0
    call = loop.call_soon_threadsafe

    def counted(*args: object, **more: object) -> asyncio.Handle:
        nonlocal asked
        asked += 1
        return call(*args, **more)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    began = time.monotonic()
    with watched():
        await asyncio.sleep(0.5)
    assert asked <= (time.monotonic() - began) / loop_watchdog.TICK_S + 1
    deadline = time.monotonic() + 10
    while any(thread.name == "loop watchdog" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
