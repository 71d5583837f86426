"""Tests attacks on the status page: no acknowledgement, answer or reserved descriptor is lost."""

import asyncio
import resource
import socket
import time
from pathlib import Path

import pytest

from tests.support.connection_flood import ask, flood, request
from tests.support.crash.killable_service import CrashSetup, run_crash_service
from tests.support.crash.platforms import SlackDriver

SOFT_LIMIT = 256
HALF_OPEN = 370
QUESTIONS = 30
MOST_LOG_LINES = 150


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


async def probe(port: int, times: int) -> list[float]:
    """Seconds until each of some requests to /healthz was answered with 200, on new connections."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        while not (await ask(port, request(), 60)).startswith(b"HTTP/1.1 200 "):  # noqa: ASYNC110 -- polled over HTTP
            await asyncio.sleep(0.05)
        took.append(time.monotonic() - began)
    return took


async def question(setup: CrashSetup) -> None:
    for number in range(QUESTIONS):
        await setup.ask("slack" if number % 2 else "discord", who=number, where=number // 2)
        await asyncio.sleep(0.1)


@pytest.mark.fault(51)
async def test_half_open_connections_cost_no_acknowledgement_and_no_answer(tmp_path: Path) -> None:
    port = free_port()
    async with run_crash_service(tmp_path, "discord", "slack", http=f"127.0.0.1:{port}") as setup:
        await setup.start()
        driver = setup.drivers["slack"]
        assert isinstance(driver, SlackDriver)
        driver.server.sockets.scale = 1.0  # Slack waits 3 s for an acknowledgement
        resource.prlimit(setup.pid, resource.RLIMIT_NOFILE, (SOFT_LIMIT, SOFT_LIMIT))
        async with flood(port, HALF_OPEN):
            await asyncio.sleep(1)
            took, _ = await asyncio.gather(probe(port, 5), question(setup))
            verdict = await setup.settled()
        log = (tmp_path / "log").read_text("utf-8", "replace")
        acks = driver.server.log.acks
        first = {each.event_id: each.at for each in reversed(driver.server.log.deliveries)}
        sent = {each.envelope_id: each.at for each in driver.server.log.deliveries}
        worst = max(sent[ack.envelope_id] + ack.seconds - first[ack.event_id] for ack in acks if not ack.late)
        print(f"{len(log.splitlines())} log lines, {worst:.3f} s worst ack, probes {took}, {verdict}")
        assert not verdict.faults, f"{verdict}\n{setup.log()}"
        assert verdict.errors == 0
        assert {ack.event_id for ack in acks if not ack.late} == first.keys()
        assert [ack for ack in acks if ack.late or ack.attempt] == []
        assert driver.server.sockets.opened == 1, "Slack's connection was lost"
        assert len(log.splitlines()) < MOST_LOG_LINES, setup.log()
        await setup.stop()
