"""Tests one server as a child: its end under a cancellation, whatever it writes, and the port that it should get."""

import asyncio
import os
import sys

import pytest

from bot.engine.local_server.managed_server import ManagedServer
from bot.engine.local_server.server_commands import ServerCommand
from bot.types.errors import EngineDied
from tests.support.builders.captured_logs import logs_at

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


async def test_an_end_without_a_known_cause_is_logged_with_the_last_lines() -> None:
    with logs_at("info") as log:
        server = managed("import sys; print(*range(100), 'an odd end', sep='\\n'); sys.exit(3)")
        await server.start()
        with pytest.raises(EngineDied, match="ended with status 3 while it loaded phi-4"):
            await server.wait_ready(lambda _: None)
    written = log.getvalue()
    assert "llama.cpp (phi-4), at its end: an odd end" in written
    assert "at its end: 99" in written
    assert "at its end: 9\n" not in written
