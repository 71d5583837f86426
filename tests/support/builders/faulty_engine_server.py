"""Makes the model of a real engine fail; `tests/support/builders/faulty_engine_process.py` is its process.

A message selects the fault: `{sigkill 11 1}` kills the process at the 11th step after that message arrived, once; the
next attempt succeeds. The counts are files, because the process may not survive. A model called `stuck` never loads,
and `slow` loads slowly. The model, its batch and the connection are real.
"""

import ctypes
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from time import sleep
from unittest.mock import patch

import torch
from transformers import PreTrainedTokenizerBase

import bot.engine.server.engine_server
from bot.engine.server.engine_server import EngineServer
from bot.models.loading import TransformersModel
from bot.models.loading import load as load_model
from bot.types.engine import EngineRequest, LoadedModel, LoadProgress, ModelSource
from tests.support.builders.faulty_engine_process import DIRECTORY

MARK = re.compile(r"\{(\w+) (\d+) (\d+)\}")
LEAK_MB = 1200
SLOW_S = 12

leaked: list[bytes] = []


def _crash() -> None:
    ctypes.string_at(0)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _shortage() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _assertion() -> None:
    raise torch.AcceleratorError("CUDA error: device-side assert triggered", 710)


def _leak() -> None:
    leaked.append(b"x" * (LEAK_MB << 20))


FAULTS: dict[str, Callable[[], None]] = {
    "sigsegv": _crash,
    "sigkill": _kill,
    "oom": _shortage,
    "assert": _assertion,
    "leak": _leak,
}


def _wait(for_ever: bool) -> None:
    """Simulates a stuck disk, or one that needs more time for a file than the heartbeat's limit."""
    read = []
    for _ in range(SLOW_S):
        sleep(1)
        read.append(bytearray(0 if for_ever else 2 << 20))
    while for_ever:
        sleep(1)


class BrokenHost(EngineServer):
    """An EngineServer whose forward pass fails as the messages say."""

    armed: tuple[str, int, Path] | None = None  # fault, steps left, file that counts it

    def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        with patch("bot.engine.server.engine_server.load_model", self._load_model):
            return super().load(source, progress)

    def _load_model(
        self,
        source: ModelSource,
        progress: Callable[[LoadProgress], None],
        check: Callable[[PreTrainedTokenizerBase], None] | None = None,
    ) -> TransformersModel:
        if source.name in ("stuck", "slow"):
            progress(LoadProgress("reading the tokenizer", 0.02))
            _wait(for_ever=source.name == "stuck")
        loaded = load_model(source, progress, check)
        loaded.model.register_forward_pre_hook(self._step)
        return loaded

    def generate(self, stream: int, request: EngineRequest) -> None:
        if mark := MARK.search(request.prompt.turns[-1].text):
            kind, step, times = mark[1], int(mark[2]), int(mark[3])
            struck = Path(os.environ[DIRECTORY]) / f"{kind} {step} {times}"
            if not struck.exists() or struck.stat().st_size < times:
                self.armed = (kind, step, struck)
        super().generate(stream, request)

    def _step(self, module: object, args: object) -> None:
        if self.armed is None:
            return
        kind, left, struck = self.armed
        self.armed = (kind, left - 1, struck)
        if left > 1:
            return
        with struck.open("ab") as file:
            file.write(b"x")
        # A memory shortage repeats at each retry; other faults happen once per message.
        again = kind == "oom" and struck.stat().st_size < int(struck.name.split()[2])
        self.armed = (kind, 2, struck) if again else None  # the generator first retries a single token
        FAULTS[kind]()


def install() -> None:
    """Replaces the EngineServer that the runner creates."""
    bot.engine.server.engine_server.EngineServer = BrokenHost  # type: ignore[misc]  # replaces a class
