"""Tests the real process while rendering is slow or blocks the event loop: it serves, and it ends."""

import re
import time
from pathlib import Path

import aiohttp
import pytest

from bot.observability.loop_watchdog import EX_HELD_UP
from bot.service.service import LAST_WORDS_S
from tests.doctor.test_doctor import unused_port
from tests.support.crash.killable_service import CrashSetup, run_crash_service

pytestmark = pytest.mark.fault(48)

DRAIN_S = 0.5
SLACK_S = 12.0
"""Seconds that starting threads and closing connections may take beyond the drain on a slow machine."""
WORDS = " ".join(["more"] * 100)
HOSTILE = {
    "nested brackets in a link": f"[x]({'(a' * 40})) {WORDS}",
    "nested code": f"`handlers[name](a(b(c(d(e(f(g(h(i(j(k(l(m(n(o(p(q(r(s` )) {WORDS}",
    "tildes": f"{'~ ' * 8000}\n{WORDS}",
    "a rule that is none": f"a|b\n{'-' * 8000}x {WORDS}",
    "a ragged table": "a|b\n-|-\n" + "\n".join("|" * number for number in range(180)) + f" {WORDS}",
    "rows of backticks": " ".join("`" * number for number in range(1, 200)) + f" {WORDS}",
}


async def is_alive(setup: CrashSetup, platform: str, port: int) -> None:
    """Asserts that /healthz responds and that another user's question is answered."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as web:
        async with web.get(f"http://127.0.0.1:{port}/healthz") as health:
            assert health.status == 200
        asked = await setup.ask(platform, who=1, where=2)
        await setup.until(
            lambda: any(said.question == asked.message_id for said in setup.drivers[platform].said()), "so"
        )
        async with web.get(f"http://127.0.0.1:{port}/healthz") as health:
            assert health.status == 200


async def ends_in_time(setup: CrashSetup) -> int | None:
    """Sends SIGTERM; the exit status."""
    began = time.monotonic()
    setup.terminate()
    status = await setup.status()
    assert time.monotonic() - began < DRAIN_S + LAST_WORDS_S + SLACK_S, setup.log()
    return status


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("platform", ["discord", "slack"])
async def test_a_hostile_answer_delays_no_other_answer(tmp_path: Path, platform: str, answer: str) -> None:
    port = unused_port()
    async with run_crash_service(tmp_path, platform, answer=answer, drain=DRAIN_S, http=f"127.0.0.1:{port}") as setup:
        await setup.start()
        await setup.ask(platform)
        await is_alive(setup, platform, port)
        await setup.until(
            lambda: sum(said.finished for said in setup.drivers[platform].said()) == 2, "both are answered"
        )
        assert await ends_in_time(setup) == 0


@pytest.mark.parametrize("platform", ["discord", "slack"])
async def test_rendering_that_never_ends_delays_no_other_answer(tmp_path: Path, platform: str) -> None:
    port = unused_port()
    hang = "rendering never ends"
    async with run_crash_service(tmp_path, platform, hang=hang, drain=DRAIN_S, http=f"127.0.0.1:{port}") as setup:
        await setup.start()
        await setup.ask(platform, words=40)
        await is_alive(setup, platform, port)
        assert await ends_in_time(setup) == 0
        assert "shown as plain text" in setup.log()


async def test_a_loop_that_is_held_up_is_reported_and_ended_within_the_drain(tmp_path: Path) -> None:
    async with run_crash_service(tmp_path, "slack", hang="the loop is held up", drain=DRAIN_S) as setup:
        await setup.start()
        await setup.ask("slack", where=2)
        await setup.until(lambda: "has been blocked" in setup.log(), "it is told")
        assert await ends_in_time(setup) == EX_HELD_UP
        (line,) = [line for line in setup.log().splitlines() if "has been blocked" in line]
        assert re.search(
            r"at crash/child_service\.py:\d+ spin < \w+/\w+\.py:\d+ \w+",
            line.replace("  ", " "),
        )
        assert "did not stop in time" in setup.log()
