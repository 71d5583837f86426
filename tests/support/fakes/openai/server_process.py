"""Runs the fake OpenAI-compatible server in a process of its own, which can be killed and started again.

`python -m tests.support.fakes.openai.server_process JSON` waits for a line with a port on stdin, listens there, prints
the port, and ends with stdin. The JSON object has the arguments of FakeOpenAI.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.fakes.openai.server import FakeOpenAI

ROOT = Path(__file__).parents[4]
START_S = 60.0


class ServerProcess:
    """`async with ServerProcess(kind="vllm", models={...}, pace_s=0.02) as server: ... server.url`.

    A second process that has imported everything takes the place of a killed one at once, on the same port.
    """

    def __init__(self, **arguments: Any) -> None:  # Any: arguments of FakeOpenAI
        self._arguments = json.dumps(arguments)
        self._process: Process | None = None
        self._next: Process | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._next = await self._spawn()
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (self._process, self._next):
            if process is not None and process.returncode is None:
                process.kill()
                await process.communicate()

    @property
    def url(self) -> str:
        """The API's base."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        """Listens, on the same port as before."""
        assert self._next is not None
        self._process, self._next = self._next, await self._spawn()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.port}\n".encode())
        async with asyncio.timeout(START_S):
            self.port = int(await self._process.stdout.readline())

    async def kill(self) -> None:
        """Sends SIGKILL and waits for the end."""
        assert self._process is not None
        self._process.kill()
        await self._process.communicate()

    async def _spawn(self) -> Process:
        command = (sys.executable, "-m", "tests.support.fakes.openai.server_process", self._arguments)
        return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)


async def _serve(arguments: dict[str, Any]) -> None:  # Any: arguments of FakeOpenAI
    port = int(await asyncio.to_thread(sys.stdin.readline))
    async with FakeOpenAI(**arguments, port=port) as server:
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
