"""Starts, monitors and stops a peer's server processes.

`stop` ends all processes, including those that the server started.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil

from bench.peering.catalog import Ground, Peer

START_S = 300.0
SAMPLE_S = 0.5
LOOK_S = 2.0
RESTLESS = 0.05
"""Share of a core; an idle server that uses more is suspended while another is measured."""


class CannotStart(Exception):
    """The server does not start; the message is one line."""


class Server:
    """One peer's processes, in a process group of their own."""

    def __init__(self, peer: Peer, ground: Ground, log: Path) -> None:
        self.peer, self.ground, self._log = peer, ground, log
        self.url = f"http://127.0.0.1:{ground.port}"
        self.restless = False
        with log.open("wb") as output:
            self._process = psutil.Popen(
                peer.command(ground),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(peer.environment),
                start_new_session=True,
            )

    async def ready(self, session: aiohttp.ClientSession) -> None:
        """Waits until it answers. Raises CannotStart."""
        loop = asyncio.get_running_loop()
        until = loop.time() + START_S
        while loop.time() < until:
            if self._process.poll() is not None:
                raise CannotStart(f"ended with {self._process.returncode} at its start: {self.last_words()}")
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(self.url + self.peer.health, timeout=aiohttp.ClientTimeout(total=5)) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.5)
        raise CannotStart(f"did not answer within {START_S:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its log that names an error, else the last line."""
        lines = [line.strip() for line in self._log.read_text("utf-8", "replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line or "error:" in line]
        return (errors or lines or ["it said nothing"])[-1][:300]

    async def look(self) -> None:
        """Measures whether it uses CPU time while idle."""
        before = self._seconds()
        await asyncio.sleep(LOOK_S)
        share = (self._seconds() - before) / LOOK_S
        self.restless = share > RESTLESS
        if self.restless:
            print(f"  {self.peer.name} takes {share:.0%} of a core when idle: held still between its turns", flush=True)

    def hold(self, still: bool) -> None:
        """Suspends a restless server's processes, or resumes them."""
        if self.restless:
            self._signal(signal.SIGSTOP if still else signal.SIGCONT)

    @asynccontextmanager
    async def weighed(self) -> AsyncIterator[list[float]]:
        """Samples the resident MB of all its processes twice a second, until the block ends."""
        samples = [self._megabytes()]

        async def sample() -> None:
            while True:
                await asyncio.sleep(SAMPLE_S)
                samples.append(self._megabytes())

        task = asyncio.create_task(sample())
        try:
            yield samples
        finally:
            task.cancel()

    def stop(self) -> None:
        """Stops all processes."""
        family = self._family()
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=10)
        self._signal(signal.SIGKILL)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._process, *self._process.children(recursive=True)]
        return []

    def _megabytes(self) -> float:
        total = 0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total / 1e6

    def _seconds(self) -> float:
        total = 0.0
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
