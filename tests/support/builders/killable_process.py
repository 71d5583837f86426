"""Runs a service in a separate process that a test kills and restarts."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from bot.replies.renderer import FILE, INTERRUPTED
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_platform import ScriptedPlatform
from tests.support.fakes.team import Team

ROOT = Path(__file__).parents[3]


class ForkServer:
    """The process that forks services; it has imported all modules already."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fakes.scripted_service"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self, order: str) -> int:
        """Sends a command; the number that it returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def ends(self) -> None:
        """Ends the process."""
        self._process.communicate(timeout=20)


class Killable:
    """A service in a separate process, restarted on the same state and platform."""

    def __init__(self, root: Path, platform: ScriptedPlatform, fork_server: ForkServer) -> None:
        self.root, self.platform, self.team = root, platform, Team.of(platform)
        self._fork_server = fork_server
        self._pid = 0

    async def starts(self) -> None:
        """Starts a service and waits until it is connected."""
        self._pid = self.another()
        await self.platform.connected()

    def another(self) -> int:
        """Starts a service without waiting for a connection; its process id."""
        return self._fork_server.says(f"start {self.root} {self.platform.port}")

    def stands_still(self) -> None:
        """Stops the process with SIGSTOP."""
        os.kill(self._pid, signal.SIGSTOP)

    async def is_killed(self) -> None:
        """Sends SIGKILL and waits until the process and its connection are gone."""
        os.kill(self._pid, signal.SIGKILL)
        assert await self.status(self._pid) == -signal.SIGKILL
        await self.platform.until(lambda: not self.platform.here, "it is gone")

    async def ends(self) -> int:
        """Sends SIGTERM; the exit status."""
        os.kill(self._pid, signal.SIGTERM)
        return await self.status(self._pid)

    async def status(self, process: int) -> int:
        """Waits for a service to end; its exit status."""
        return await asyncio.to_thread(self._fork_server.says, f"wait {process}")

    async def struck(self, times: int) -> None:
        """Waits until this many planned faults have happened."""
        await self.platform.until(lambda: len(self.platform.struck) == times, f"{times} faults have happened")

    def stored(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query on its database."""
        return rows(self.root / "state", query)


async def is_answered_once(setup: Killable, question: str, text: str = "") -> None:
    """Asserts that a question has one final answer in one message."""
    answer = await setup.team.reply_to(question)
    assert answer.text == (text or f"You said: {question}")
    assert len(setup.team.replies_to(question)) == 1
    assert len([post for post in setup.platform.posted if post.reply.question_id == setup.team.asked[question]]) == 1


async def is_a_file(setup: Killable, question: str, text: str) -> None:
    """Asserts that a question has one final answer: one message with a file."""
    await is_answered_once(setup, question, INTERRUPTED)
    file = (await setup.team.reply_to(question)).first.reply.attachment
    assert (file and (file.name, file.text)) == (FILE, text)
