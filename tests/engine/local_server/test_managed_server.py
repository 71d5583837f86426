"""Tests one server as a child: its end under a cancellation, whatever it writes, and the port that it should get."""

import asyncio
import os
import sys

from bot.engine.local_server.managed_server import ManagedServer
from bot.engine.local_server.server_commands import ServerCommand

SLEEPS = "import time; time.sleep(3600)"


def managed(code: str) -> ManagedServer:
    """A server that is a Python script."""
    command = ServerCommand(
        "llama.cpp", "m", (sys.executable, "-c", code), dict(os.environ), "LLAMA_API_KEY", "/health"
    )
    return ManagedServer(command, "phi-4", hung_s=60.0)


async def test_a_cancelled_wait_for_the_end_leaves_the_end_to_others() -> None:
    server = managed(SLEEPS)
    await server.start()
    stopping = asyncio.create_task(server.stop(0.0))
    await asyncio.sleep(0)  # it waits for the end now
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    async with asyncio.timeout(20):
        await server.stop()
    assert str(server.exited.result()) == "by signal 9"
