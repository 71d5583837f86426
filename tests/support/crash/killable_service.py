"""Kills and restarts a service on fake platforms that keep running, for the crash tests and `bench.kills`.

async with run_crash_service(tmp_path, "discord", "slack") as setup:
    await setup.start(Point("inbox.finish", after=True))
    await setup.ask("slack", words=40)
    await setup.died()
    await setup.start()
    assert not (await setup.ended()).faults
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.support.builders.databases import CHOSEN
from tests.support.builders.storage_rows import open_storage, rows
from tests.support.crash.child_service import ChildParameters, Point, live
from tests.support.crash.platforms import Asked, DiscordDriver, PlatformDriver, SlackDriver
from tests.support.crash.verdict import Verdict, judged
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.slack_server import FakeSlack
from tests.support.fakes.tls import LOOPBACK

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60.0
"""Time limit in seconds for the service to exit, to connect, or to answer all pending questions."""


class CrashSetup:
    """The fake platforms, the state directory, and a sequence of service processes."""

    def __init__(self, root: Path, drivers: dict[str, PlatformDriver], parameters: ChildParameters) -> None:
        self.root, self.drivers = root, drivers
        self.state = root / "state"
        """The state directory that stands for the database."""
        self.asked: list[Asked] = []
        self.lives = 0
        self._parameters = parameters
        self._sessions: dict[str, int] = {}  # of each platform, before it stood by
        self._process: ForkServerProcess | None = None

    def beside(self, root: Path, **changes: Any) -> "CrashSetup":
        """Another instance of the service, with a state directory in `root`, on the same platforms and database.

        changes: fields of ChildParameters.
        """
        other = CrashSetup(root, self.drivers, replace(self._parameters, root=str(root), **changes))
        other.asked, other.state = self.asked, self.state
        return other

    def use(self, **settings: Any) -> None:
        """Changes settings from the next start on."""
        self._parameters = replace(self._parameters, settings={**self._parameters.settings, **settings})

    @property
    def is_running(self) -> bool:
        """Whether the service process is running."""
        return self._process is not None and self._process.is_alive()

    @property
    def pid(self) -> int:
        """The id of the service process."""
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    async def stand_by(self) -> None:
        """Starts a process, and waits until it stands by for another one."""
        log = self.root / "log"
        log.touch()
        before = log.stat().st_size
        self._sessions = {name: driver.sessions() for name, driver in self.drivers.items()}
        await self.start(connected=False)
        await self.until(lambda: "Standing by: " in log.read_text("utf-8")[before:], "it stands by")

    async def serves(self) -> None:
        """Waits until it is connected to the platforms, after it stood by."""
        await self.until(
            lambda: all(driver.sessions() > self._sessions[name] for name, driver in self.drivers.items()),
            "it took over",
        )

    async def start(self, point: Point | None = None, *, connected: bool = True) -> None:
        """Starts a process, which runs until `point` if given. connected: waits until it is connected or has exited."""
        assert not self.is_running
        before = {name: driver.sessions() for name, driver in self.drivers.items()}
        parameters = replace(self._parameters, point=point)
        process = _context().Process(target=live, args=(parameters,), daemon=True)
        process.start()
        self._process = process
        self.lives += 1
        if connected:
            await self.until(
                lambda: (
                    not self.is_running
                    or all(driver.sessions() > before[name] for name, driver in self.drivers.items())
                ),
                "it is connected",
            )

    async def ask(self, driver: str, *, words: int = 12, who: int = 0, where: int = 0) -> Asked:
        """Posts a question."""
        asked = await self.drivers[driver].ask(who, where, len(self.asked), words)
        self.asked.append(asked)
        return asked

    async def kill(self) -> None:
        """Sends SIGKILL and waits for the exit."""
        assert self._process is not None
        self._process.kill()
        await self.died()

    async def died(self) -> None:
        """Waits until SIGKILL has ended the process."""
        assert await self._ended() == -signal.SIGKILL, self.log()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        assert self._process is not None
        self._process.terminate()

    async def stop(self) -> None:
        """Sends SIGTERM and asserts exit status 0."""
        self.terminate()
        assert await self.status() == 0, self.log()

    async def status(self) -> int | None:
        """Waits for the exit; the exit status."""
        return await self._ended()

    async def settled(self) -> Verdict:
        """Waits until each question is answered without faults, or PATIENCE_S passed; the verdict."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while self.verdict().faults:  # noqa: ASYNC110 -- polls another process
                    await asyncio.sleep(0.03)
        return self.verdict()

    def verdict(self) -> Verdict:
        """The verdict on all questions so far."""
        return judged(self.asked, [said for driver in self.drivers.values() for said in driver.said()])

    async def ended(self) -> Verdict:
        """Waits for all answers and stops the service; the verdict on messages, pings and stored rows."""
        await self.settled()
        await self.stop()
        verdict = self.verdict()
        verdict.amiss += [
            f"{driver.name} notified {driver.pings()}" for driver in self.drivers.values() if driver.pings()
        ]
        found = {name: rows(self.state, query) for name, query in _QUERIES.items()}
        if CHOSEN.server is None:
            found["integrity"] = rows(self.state, "PRAGMA integrity_check")
        expected = {"integrity": [("ok",)], "requests": [(len(self.asked),)], "open": [], "owed": []}
        verdict.amiss += [f"storage, {name}: {stored}" for name, stored in found.items() if stored != expected[name]]
        return verdict

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Waits until a condition is true. Raises AssertionError with the end of the log."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not holds():  # noqa: ASYNC110 -- polls another process
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"waited in vain until {what}\n{self.log()}") from None

    def log(self) -> str:
        """The last 6,000 characters of the service's log."""
        return (self.root / "log").read_text("utf-8", "replace")[-6000:]

    async def _ended(self) -> int | None:
        process = self._process
        assert process is not None
        await asyncio.to_thread(process.join, PATIENCE_S)
        return process.exitcode

    async def close(self) -> None:
        """Kills the process if it runs."""
        if self._process is not None:
            self._process.kill()
            await self._ended()


_QUERIES = {
    "requests": "SELECT count(*) FROM requests",
    "open": "SELECT request_id, status FROM requests WHERE status IN ('waiting', 'running')",
    "owed": "SELECT reply_id, state FROM outbox WHERE state IN ('posting', 'posted', 'ready')",
}


@asynccontextmanager
async def run_crash_service(
    root: Path,
    *platforms: str,
    fresh: bool = False,
    answer: str = "",
    hang: str = "",
    lease_s: float = 15.0,
    address: str = LOOPBACK,
    channels: int = 1,
    **settings: Any,
) -> AsyncIterator[CrashSetup]:
    """Opens a CrashSetup in `root` with some platforms. Unless `fresh`, every channel has a stored cursor.

    answer, hang, lease_s: as in ChildParameters. address: on which the platforms listen. channels: of each platform.
    """
    async with AsyncExitStack() as stack:
        drivers: dict[str, PlatformDriver] = {}
        port, authority = 0, ""
        made: dict[str, Any] = {"drain": 0.5, "per_user": 1000, "queue_size": 5000, "http": "off", **settings}
        if url := CHOSEN.url(root / "state", empty=fresh):
            made["database_url"] = url.get_secret_value()
        if "discord" in platforms:
            discord = await stack.enter_async_context(FakeDiscord(address=address))
            drivers["discord"] = DiscordDriver(discord, channels)
            port, authority = discord.port, str(discord.write_ca(root / "ca.pem"))
            made["discord_bot_token"] = discord.token
        if "slack" in platforms:
            slack = await stack.enter_async_context(FakeSlack(address=address))
            drivers["slack"] = SlackDriver(slack, channels)
            made |= slack.settings()
        setup = CrashSetup(
            root, drivers, ChildParameters(str(root), made, port, authority, None, answer, hang, lease_s, address)
        )
        stack.push_async_callback(setup.close)
        cursors = [cursor for driver in drivers.values() for cursor in await driver.begin()]
        if not fresh:
            storage = await open_storage(root / "state")
            await storage.cursors.save(cursors)
            await storage.close()
        yield setup


def _context() -> multiprocessing.context.ForkServerContext:
    """A multiprocessing context that forks from a server which has imported all modules."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.crash.killable_service"])
    with patch.dict(os.environ, PYTHONPATH=str(ROOT)):
        forkserver.ensure_running()
    return context
