"""What the tests of the real shapes share: the models on disk, one at a time, an engine, and a tiny model.

Test modules name this in `pytest_plugins`; each writes the models for itself and deletes each when it is done with it.
"""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.engine.process import EngineProcess
from tests.real_asking import Written
from tests.real_models import REALS, Real, write_real
from tests.tiny_models import make_tiny


@pytest.fixture(scope="module", params=list(REALS.values()), ids=list(REALS))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """One model after the other; the last one's files are gone before the next one's come."""
    real: Real = request.param
    folder = write_real(real, tmp_path_factory.mktemp("real") / real.name)
    yield Written(real, folder)
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[EngineProcess]:
    """An engine for the module; the first load starts its process."""
    process = EngineProcess()
    yield process
    await process.close()


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, whose process is as small as one with a model can be."""
    return make_tiny("llama", tmp_path_factory.mktemp("tiny") / "llama")
