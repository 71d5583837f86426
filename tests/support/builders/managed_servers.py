"""Builds engines on servers that run as children, and looks at the processes of such a server."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import sleep
from typing import Any

import psutil

from bot.config.settings import load_settings
from bot.engine.local_server.local_server_engine import LocalServerEngine
from bot.engine.local_server.managed_server import ManagedServer
from bot.engine.local_server.server_commands import ServerCommands
from bot.types.engine import ModelSource

ONE_THREAD = "--threads 1 --threads-batch 1 --no-warmup"
"""llama.cpp's threads wait for each other in a loop, which takes long where other tests run."""


def gguf_source(file: Path, name: str = "smollm2", **how: Any) -> ModelSource:  # Any: fields of ModelSource
    """SmolLM2 with a small KV cache."""
    return ModelSource(name, str(file), **{"context_window": 2048, "kv_cache_mb": 100, **how})


@asynccontextmanager
async def server_engine(
    engine: str = "llama.cpp",
    arguments: str = ONE_THREAD,
    hung_s: float = 60.0,
    available_mb: Callable[[], int] | None = None,
) -> AsyncIterator[LocalServerEngine]:
    """An engine that is closed at the end."""
    settings = load_settings(engine=engine, engine_args=arguments or None)
    made = LocalServerEngine(ServerCommands(settings), hung_s=hung_s, available_mb=available_mb)
    try:
        yield made
    finally:
        await made.close()


def processes(server: ManagedServer) -> list[psutil.Process]:
    """All processes of a server, the supervisor first."""
    supervisor = psutil.Process(server.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def wait_gone(*waited: psutil.Process) -> None:
    """Waits until processes have ended, reaped or not; the test's timeout limits it."""
    for process in waited:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            sleep(0.02)
