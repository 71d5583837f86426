"""The engines that the contract tests run on: ENGINES maps a name to an async context manager that gives a Subject.

The tests load the model themselves. An engine that this machine may lack is added by a plugin of pytest, as
bench/proof_servers/vllm_engine.py does.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bot.config.settings import load_settings
from bot.engine.client.process import EngineProcess
from bot.engine.remote.remote_engine import RemoteEngine
from bot.models.catalog import Catalog
from bot.models.pull import pull
from bot.types.engine import Engine, ModelSource
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.real_servers.servers import RealServer, llama_cpp, transformers_serve

MODEL = "org/Model-7B"
LONG_QUESTION = "Write a long story about a lighthouse."
"""Its answer takes so long that it can be aborted in the middle."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine under test, and a model that it can load.

    stop_strings: whether SamplingParams.stop ends its answers; a scripted server ends each but that to LONG_QUESTION
    by itself. refuses_long: whether a question longer than the window is an error; some servers cut it. sent: all that
    was sent to a scripted server, as text; None for an engine that runs a model. talks: whether the model's answers
    make sense.
    """

    engine: Engine
    source: ModelSource
    stop_strings: bool = True
    refuses_long: bool = True
    sent: Callable[[], str] | None = None
    talks: bool = False


@asynccontextmanager
async def run_local(folder: Path) -> AsyncIterator[Subject]:
    """The engine process with a tiny model on the CPU."""
    from tests.support.builders.tiny_models import make_tiny  # imports torch

    engine = EngineProcess()
    path = make_tiny("llama", folder / "llama")
    try:
        yield Subject(engine, ModelSource("tiny", str(path), device="cpu", dtype="float32"))
    finally:
        await engine.close()


@asynccontextmanager
async def run_fake(kind: str, _: Path) -> AsyncIterator[Subject]:
    """The engine on a scripted server of one kind."""
    async with FakeOpenAI(kind, {MODEL: 2048}, pace_s=0.01) as server:
        server.answers(LONG_QUESTION, " ".join(map(str, range(1000))))
        engine = RemoteEngine([server.url])
        try:
            yield Subject(
                engine,
                ModelSource("model-7b", MODEL),
                stop_strings=False,
                refuses_long=kind in ("vllm", "ray", "sglang", "llama.cpp"),
                sent=lambda: str([asked.body.get("messages") for asked in server.asked]),
            )
        finally:
            await engine.close()


def smollm2() -> Path:
    """The directory of SmolLM2-135M-Instruct; downloads it if missing."""
    settings = load_settings()
    return pull(Catalog.of(settings).get("smollm2"), settings)


@asynccontextmanager
async def run_real(server: RealServer, *, talks: bool) -> AsyncIterator[Subject]:
    """The engine on a real server. talks: it has SmolLM2, honours stop strings and refuses what is too long."""
    await asyncio.to_thread(server.start)
    try:
        engine = RemoteEngine([server.url])
        try:
            source = ModelSource("model", server.model)
            yield Subject(engine, source, stop_strings=talks, refuses_long=talks, talks=talks)
        finally:
            await engine.close()
    finally:
        server.kill()


@asynccontextmanager
async def run_llama_cpp(folder: Path) -> AsyncIterator[Subject]:
    """The engine on llama.cpp's server with SmolLM2."""
    server = llama_cpp(smollm2(), folder, slots=2, window=1024)
    async with run_real(server, talks=True) as subject:
        yield subject


@asynccontextmanager
async def run_transformers_serve(folder: Path) -> AsyncIterator[Subject]:
    """The engine on `transformers serve` with a tiny model, since it computes what is too long."""
    from tests.support.builders.tiny_models import make_tiny  # imports torch

    server = transformers_serve(make_tiny("llama", folder / "llama"), folder)
    async with run_real(server, talks=False) as subject:
        yield subject


ENGINES: dict[str, Callable[[Path], AbstractAsyncContextManager[Subject]]] = {
    "local": run_local,
    **{
        f"fake {kind}": partial(run_fake, kind)
        for kind in ("vllm", "ray", "sglang", "llama.cpp", "ollama", "transformers")
    },
    "llama.cpp": run_llama_cpp,
    "transformers serve": run_transformers_serve,
}
