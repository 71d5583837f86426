"""Tests notifications to systemd, with a real datagram socket in place of systemd's."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from bot.generation.worker import Worker
from bot.models.catalog import Catalog
from bot.observability import systemd_notify
from bot.observability.systemd_notify import Notifier
from bot.service.service import Service
from bot.storage import Storage
from tests.support.builders.service import MACHINE, make_settings
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_adapter import ScriptedAdapter
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Team
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]

PATIENCE_S = 20.0


class Systemd:
    """The receiver of NOTIFY_SOCKET; a thread records messages in order."""

    def __init__(self, address: str) -> None:
        self.told: list[str] = []
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while message := self._socket.recv(4096).decode():
            with self._changed:
                self.told.append(message)
                self._changed.notify_all()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def heard(self, words: str) -> list[str]:
        return [message for message in self.told if re.search(words, message)]

    async def hears(self, words: str, times: int = 1) -> str:
        """Waits until `times` messages match; the newest."""
        await asyncio.to_thread(self._wait, lambda: len(self.heard(words)) >= times)
        assert len(self.heard(words)) >= times, f"not told: {words} ({self.told})"
        return self.heard(words)[-1]

    def _wait(self, heard: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(heard, PATIENCE_S)


@contextmanager
def supervisor(address: str) -> Iterator[Systemd]:
    systemd = Systemd(address)
    try:
        yield systemd
    finally:
        systemd.close()


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # socket paths must be short
    return "notify"


@pytest.fixture
def systemd(address: str) -> Iterator[Systemd]:
    with supervisor(address) as systemd:
        yield systemd


@asynccontextmanager
async def telling(
    notifier: Notifier, line: Callable[[], str] = lambda: "idle", arrived: Callable[[], bool] = lambda: True
) -> AsyncIterator[None]:
    task = asyncio.create_task(notifier.keep_updated(line, arrived))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_ready_is_said_once_and_when_every_platform_was_reached(address: str, systemd: Systemd) -> None:
    arrived = False
    with patch.object(systemd_notify, "TICK_S", 0.01):
        async with telling(Notifier(address, watchdog_s=0.1), arrived=lambda: arrived):
            await systemd.hears("WATCHDOG=1", times=3)
            assert not systemd.heard("READY")
            arrived = True
            assert await systemd.hears("READY") == "READY=1\nSTATUS=idle"
            await systemd.hears("WATCHDOG=1", times=8)
            assert len(systemd.heard("READY")) == 1


async def test_ready_does_not_wait_for_a_platform_for_ever(address: str, systemd: Systemd) -> None:
    began = time.monotonic()
    with patch.object(systemd_notify, "TICK_S", 0.01), patch.object(systemd_notify, "READY_TIMEOUT_S", 0.3):
        async with telling(Notifier(address), arrived=lambda: False):
            await systemd.hears("READY")
    assert time.monotonic() - began >= 0.3


async def test_the_status_is_reported_when_it_changes_and_not_in_a_hurry(address: str, systemd: Systemd) -> None:
    numbers = iter(range(10_000))
    with patch.object(systemd_notify, "TICK_S", 0.01), patch.object(systemd_notify, "STATUS_S", 0.2):
        async with telling(Notifier(address), lambda: f"{next(numbers)} waiting"):
            began = time.monotonic()
            await systemd.hears("^STATUS=", times=3)
            assert time.monotonic() - began >= 0.6
        async with telling(Notifier(address)):
            await systemd.hears("idle")
    assert len(systemd.heard("idle")) == 1


async def test_the_watchdog_is_petted_four_times_a_period_by_the_loop_alone(address: str, systemd: Systemd) -> None:
    async with telling(Notifier(address, watchdog_s=0.4)):
        began = time.monotonic()
        await systemd.hears("WATCHDOG=1", times=5)
        assert time.monotonic() - began >= 0.4
        beats = len(systemd.heard("WATCHDOG=1"))
        time.sleep(0.6)  # noqa: ASYNC251 -- blocks the loop on purpose
        assert len(systemd.heard("WATCHDOG=1")) == beats
        await systemd.hears("WATCHDOG=1", times=beats + 1)


async def test_a_reload_is_reported_with_its_time_and_the_end_with_what_it_may_take(
    address: str, systemd: Systemd
) -> None:
    notifier = Notifier(address)
    with notifier.reloading():
        pass
    async with telling(notifier):
        await systemd.hears("READY")
        before = time.monotonic_ns() // 1000
        with suppress(ZeroDivisionError), notifier.reloading():
            raise ZeroDivisionError  # this end is reported too
        await systemd.hears("READY", times=2)
        (reloading,) = systemd.heard("RELOADING=1")
        found = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", reloading)
        assert found is not None
        assert before <= int(found[1]) <= time.monotonic_ns() // 1000
        assert systemd.told.index(reloading) < systemd.told.index("READY=1")
        notifier.stopping(35.0)
        assert await systemd.hears("STOPPING") == "STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000"
        with notifier.reloading():
            pass
    assert len(systemd.heard("RELOADING")) == 1


async def test_the_environment_names_the_socket_and_our_children_do_not_inherit_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    abstract = f"@inhouse-{tmp_path.name}-{time.monotonic_ns()}"
    monkeypatch.setenv("NOTIFY_SOCKET", abstract)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with supervisor(abstract) as systemd:
        async with telling(Notifier.of_environment()):
            await systemd.hears("READY")
            await systemd.hears("WATCHDOG=1", times=2)
    async with telling(Notifier.of_environment()):
        await asyncio.sleep(0)  # without a receiver it ends at once


@pytest.mark.parametrize(("name", "value"), [("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "soon")])
async def test_a_watchdog_that_is_not_ours_is_not_petted(
    address: str, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv(name, value)
    with patch.object(systemd_notify, "TICK_S", 0.01), patch.object(systemd_notify, "STATUS_S", 0.0):
        numbers = iter(range(10_000))
        async with telling(Notifier.of_environment(), lambda: str(next(numbers))):
            await systemd.hears("^STATUS", times=10)
    assert not systemd.heard("WATCHDOG")


async def test_a_missing_supervisor_disturbs_nothing(address: str) -> None:
    notifier = Notifier(address, watchdog_s=0.02)
    async with telling(notifier):
        await asyncio.sleep(0.1)
        with supervisor(address) as systemd:
            await systemd.hears("WATCHDOG=1")
        notifier.stopping(1)


class WatchedAdapter(ScriptedAdapter):
    """Reports its connection as the test says."""

    connected, rate_limited = True, 0


@asynccontextmanager
async def served(
    root: Path, notifier: Notifier, make: type[ScriptedAdapter] = ScriptedAdapter
) -> AsyncIterator[tuple[ScriptedPlatform, Service, asyncio.Task[None]]]:
    """A service that notifies, on a scripted platform that answers once its gate is open."""
    settings = make_settings(root)
    async with ScriptedPlatform() as platform:
        adapter = make(platform.port)
        engine = ScriptedEngine(platform.gates.passing)
        service = Service(settings, Catalog.of(settings), [adapter], engine, notifier)
        with patch("bot.models.installed_models.probe", return_value=MACHINE):
            running = asyncio.create_task(service.run())
            try:
                yield platform, service, running
            finally:
                service.stop()
                service.stop()
                await asyncio.gather(running, return_exceptions=True)


async def test_a_service_tells_its_model_its_queue_and_its_platforms(
    address: str, systemd: Systemd, tmp_path: Path
) -> None:
    with patch.object(systemd_notify, "TICK_S", 0.01), patch.object(systemd_notify, "STATUS_S", 0.0):
        async with served(tmp_path, Notifier(address, watchdog_s=1.0)) as (platform, service, running):
            await systemd.hears("READY=1\nSTATUS=.*scripted: connected")
            await systemd.hears("STATUS=small.*; scripted: connected")
            platform.gates.hold("first/1")
            team = Team.of(platform)
            await team.says("ana", "first")
            await team.says("ana", "second")
            await systemd.hears(r"STATUS=small.* 1 waiting.*; scripted: connected")
            service.stop()
            await systemd.hears("STOPPING=1")
            await systemd.hears("STATUS=stopping; ")
            service.stop()
            await running
        assert "notifier" not in {task.get_name() for task in asyncio.all_tasks()}
        ended = len(systemd.told)
        Notifier(address).stopping(7)
        await systemd.hears("USEC=17000000")
        assert len(systemd.told) == ended + 1, "nothing came between"


async def test_a_platform_that_is_lost_later_is_told(
    address: str, systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_notify, "TICK_S", 0.01)
    monkeypatch.setattr(systemd_notify, "STATUS_S", 0.0)
    async with served(tmp_path, Notifier(address), WatchedAdapter):
        for connected, state in ((True, "connected"), (False, "connecting"), (True, "connected")):
            told = len(systemd.heard(f"scripted: {state}"))
            monkeypatch.setattr(WatchedAdapter, "connected", connected)
            await systemd.hears(f"scripted: {state}", times=told + 1)


@pytest.mark.parametrize("how", ["raises", "returns", "is cancelled"])
async def test_when_the_worker_is_dead_the_service_ends_and_the_watchdog_goes_hungry(
    address: str, systemd: Systemd, tmp_path: Path, how: str
) -> None:
    die = asyncio.Event()

    async def mortal(self: Worker) -> None:
        await die.wait()
        if how == "raises":
            raise RuntimeError("a bug of ours")
        if how == "is cancelled":
            raise asyncio.CancelledError

    with patch.object(Worker, "run", mortal):
        async with served(tmp_path, Notifier(address, watchdog_s=0.1)) as (_, _, running):
            await systemd.hears("READY")
            await systemd.hears("WATCHDOG=1", times=3)
            die.set()
            await asyncio.wait([running], timeout=PATIENCE_S)
            assert running.done()
            assert running.cancelled() or running.exception(), "systemd would not start it again"
            await systemd.hears("STOPPING=1")
            assert "notifier" not in {task.get_name() for task in asyncio.all_tasks()}
            beats = len(systemd.heard("WATCHDOG=1"))
            Notifier(address).stopping(7)
            await systemd.hears("USEC=17000000")
            assert len(systemd.heard("WATCHDOG=1")) == beats


async def test_a_standby_tells_for_whom_it_stands_by_and_stops_at_once(
    address: str, systemd: Systemd, tmp_path: Path, postgresql: PostgresqlProcess
) -> None:
    url = postgresql.new_database()
    first = await Storage.open(tmp_path / "first", url)
    holder = (tmp_path / "first" / "instance").read_text("utf-8")
    made = make_settings(tmp_path / "second", database_url=url, standby=True)
    service = Service(made, Catalog.of(made), [ScriptedAdapter(0)], ScriptedEngine(Gates().passing), Notifier(address))
    running = asyncio.create_task(service.run())
    assert await systemd.hears("READY=1") == f"READY=1\nSTATUS=standing by for {holder}"
    service.stop()
    await asyncio.wait_for(running, PATIENCE_S)
    await first.close()
