"""The engine's one model: loading it, how far that has come, losing it.

In: a name to load. Out: what is loaded, if anything is, and the history of it: how long each model took, how often the
engine was lost. Whoever calls sees to it that nothing runs meanwhile.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from threading import Thread

from bot.observability.metrics import Metrics
from bot.types.engine import Engine, LoadedModel, LoadProgress, ModelSource
from bot.types.errors import ModelError

log = logging.getLogger(__name__)

Locate = Callable[[str], ModelSource]
"""Finds a model, by name, on this disk; may block; raises ModelError."""

LOCATE_S = 60.0
"""Looking up a model reads a few small files; a disk that takes longer does not answer."""


@dataclass(frozen=True, slots=True)
class Loading:
    """A load that is going on. `began` is on the monotonic clock; `again`: in place of an engine that was lost."""

    model: str
    progress: LoadProgress
    began: float
    again: bool


class Loader:
    """Loads into one engine."""

    def __init__(self, engine: Engine, locate: Locate, metrics: Metrics) -> None:
        self._engine, self._locate, self._metrics = engine, locate, metrics
        self._seconds: dict[str, float] = {}  # measured, by model
        self._again = False  # the engine was lost, and no model has been loaded since
        self.loaded: LoadedModel | None = None
        self.loading: Loading | None = None
        self.losses = 0
        """How often the engine was lost or given up."""

    @property
    def name(self) -> str:
        """The model that is loaded, '' for none."""
        return self.loaded.name if self.loaded else ""

    @property
    def slots(self) -> int:
        """How many answers may be written at once."""
        return self.loaded.max_running if self.loaded else 1

    def has(self, model: str) -> bool:
        """Whether this is the model that is loaded."""
        return self.name == model

    def seconds(self, model: str) -> float:
        """How long this model takes to load: what it took last time; 0 if it is kept in memory, or not known."""
        return 0.0 if self._keeps(model) else self._seconds.get(model, 0.0)

    async def load(self, model: str) -> None:
        """Make this the loaded model. Raises ModelError or EngineDied; none is loaded then."""
        began, kept = time.monotonic(), self._keeps(model)
        self.loaded = None
        self._progress(model, LoadProgress("loading", 0.0), began)
        try:
            source = await self._located(model)
            self.loaded = await self._engine.load(source, lambda step: self._progress(model, step, began))
        finally:
            self.loading = None
            self._metrics.load_ended(model, loaded=self.loaded is not None)
        self._again = False
        if not kept:
            self._seconds[model] = time.monotonic() - began
        log.info("Loaded %s on %s as %s in %.1f s", model, self.loaded.device, self.loaded.dtype, self.loaded.load_s)
        if self.loaded.note:
            log.info("%s", self.loaded.note)

    def lose(self, why: str) -> None:
        """The engine is gone, with its model; said once, however many notice it."""
        if self.loaded is not None:
            log.error("%s", why)
            self.loaded, self._again, self.losses = None, True, self.losses + 1

    async def _located(self, model: str) -> ModelSource:
        """As `locate`, within LOCATE_S. Raises ModelError."""
        found = Future[ModelSource]()

        def look() -> None:
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                try:
                    found.set_result(self._locate(model))
                except Exception as error:
                    found.set_exception(error)

        # Not one of the loop's threads: the end of the process would wait for it.
        Thread(target=look, name="locate", daemon=True).start()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(found), LOCATE_S)
        except TimeoutError as error:
            raise ModelError(
                f"The files of {model} could not be looked up within {LOCATE_S:.0f} s; see whether the disk that they "
                "lie on can be read, or choose another model."
            ) from error

    def _keeps(self, model: str) -> bool:
        return self.loaded is not None and model in self.loaded.resident

    def _progress(self, model: str, step: LoadProgress, began: float) -> None:
        self.loading = Loading(model, step, began, self._again)
