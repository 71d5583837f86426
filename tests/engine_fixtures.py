"""What the tests of the engine share: tiny models on disk, and one engine whose process serves the whole session.

Test modules name this in `pytest_plugins`.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.engine.process import EngineProcess
from tests.tiny_models import KINDS, make_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models' directories, by kind."""
    root = tmp_path_factory.mktemp("tiny")
    return {kind: make_tiny(kind, root / kind) for kind in KINDS}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine() -> AsyncIterator[EngineProcess]:
    """An engine; the first load starts its process."""
    process = EngineProcess()
    yield process
    await process.close()
