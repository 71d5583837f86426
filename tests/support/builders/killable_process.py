"""Runs a service in a separate process that a test kills and restarts."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from bot.replies.renderer import FILE, INTERRUPTED
from tests.support.builders.storage_rows import rows
from tests.support.fakes.team import Team
from tests.support.fakes.world import World

ROOT = Path(__file__).parents[3]


class Nursery:
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

    def __init__(self, root: Path, world: World, nursery: Nursery) -> None:
        self.root, self.world, self.team = root, world, Team.of(world)
        self._nursery = nursery
        self._pid = 0

    async def starts(self) -> None:
        """Starts a service and waits until it is connected."""
        self._pid = self.another()
        await self.world.connected()

    def another(self) -> int:
        """Starts a service without waiting for a connection; its process id."""
        return self._nursery.says(f"start {self.root} {self.world.port}")

    def stands_still(self) -> None:
        """Stops the process with SIGSTOP."""
        os.kill(self._pid, signal.SIGSTOP)

    async def is_killed(self) -> None:
        """Sends SIGKILL and waits until the process and its connection are gone."""
        os.kill(self._pid, signal.SIGKILL)
        assert await self.status(self._pid) == -signal.SIGKILL
        await self.world.until(lambda: not self.world.here, "it is gone")

    async def ends(self) -> int:
        """Sends SIGTERM; the exit status."""
        os.kill(self._pid, signal.SIGTERM)
        return await self.status(self._pid)

    async def status(self, process: int) -> int:
        """Waits for a service to end; its exit status."""
        return await asyncio.to_thread(self._nursery.says, f"wait {process}")

    def stored(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query on its database."""
        return rows(self.root / "state", query)


async def is_answered_once(house: Killable, question: str, text: str = "") -> None:
    """Asserts that a question has one final answer in one message."""
    answer = await house.team.reply_to(question)
    assert answer.text == (text or f"You said: {question}")
    assert len(house.team.replies_to(question)) == 1
    assert len([post for post in house.world.posted if post.reply.question_id == house.team.asked[question]]) == 1


async def is_a_file(house: Killable, question: str, text: str) -> None:
    """Asserts that a question has one final answer: one message with a file."""
    await is_answered_once(house, question, INTERRUPTED)
    file = (await house.team.reply_to(question)).first.reply.attachment
    assert (file and (file.name, file.text)) == (FILE, text)
