"""Loads models into the engine, tracks load progress, load times and engine losses.

The caller ensures that no request runs during a load.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from threading import Thread

from bot.observability.metrics import Metrics
from bot.types.engine import Capabilities, Engine, LoadedModel, LoadProgress, ModelSource
from bot.types.errors import EngineDied, ModelError

log = logging.getLogger(__name__)

Locate = Callable[[str], ModelSource]
"""Resolves a model name to files on disk. May block. Raises ModelError."""

LOAD_ATTEMPTS = 2
"""Number of engine deaths during loads of one model after which the model counts as broken."""

LOCATE_S = 60.0
"""Timeout for `locate`, which reads a few small files; a slower disk counts as not responding."""


@dataclass(frozen=True, slots=True)
class Loading:
    """A load in progress. `began`: monotonic clock. `again`: it replaces an engine that was lost."""

    model: str
    progress: LoadProgress
    began: float
    again: bool


class Loader:
    """Loads models into one engine."""

    def __init__(self, engine: Engine, locate: Locate, metrics: Metrics) -> None:
        self._engine, self._locate, self._metrics = engine, locate, metrics
        self._seconds: dict[str, float] = {}  # measured load time by model
        self._deaths: Counter[str] = Counter()  # engine deaths during loads, by model, since its last success
        self._again = False  # the engine was lost and no model was loaded since
        self.loaded: LoadedModel | None = None
        self.capabilities: dict[str, Capabilities] = {}
        """By model, of its last load."""
        self.loading: Loading | None = None
        self.losses = 0
        """Number of times that the engine was lost or restarted."""

    @property
    def name(self) -> str:
        """Name of the loaded model, '' for none."""
        return self.loaded.name if self.loaded else ""

    @property
    def slots(self) -> int:
        """Maximum number of concurrent requests."""
        return self.loaded.max_running if self.loaded else 1

    def has(self, model: str) -> bool:
        """Whether `model` is loaded."""
        return self.name == model

    def seconds(self, model: str) -> float:
        """Estimated load time: the last measured one; 0 if the model is kept in memory or was never measured."""
        return 0.0 if self._keeps(model) else self._seconds.get(model, 0.0)

    @property
    def seconds_left(self) -> float:
        """Estimated rest of the load in progress; 0 if there is none, or no basis for an estimate."""
        if self.loading is None:
            return 0.0
        taken, fraction = time.monotonic() - self.loading.began, self.loading.progress.fraction
        expected = taken / fraction if fraction >= 0.2 else self._seconds.get(self.loading.model, 0.0)
        return max(0.0, expected - taken)

    async def load(self, model: str) -> None:
        """Load a model. Raises ModelError or EngineDied; no model is loaded then.

        Raises ModelError instead of EngineDied if the load ended the engine LOAD_ATTEMPTS times.
        """
        began, kept = time.monotonic(), self._keeps(model)
        self.loaded = None
        self._progress(model, LoadProgress("loading", 0.0), began)
        try:
            source = await self._located(model)
            self.loaded = await self._engine.load(source, lambda step: self._progress(model, step, began))
        except EngineDied as error:
            self._deaths[model] += 1
            if self._deaths[model] < LOAD_ATTEMPTS:
                raise
            del self._deaths[model]
            raise ModelError(f"Loading {model} ended the engine's process {LOAD_ATTEMPTS} times.") from error
        finally:
            self.loading = None
            self._metrics.load_ended(model, loaded=self.loaded is not None)
        self._again = False
        self._deaths.pop(model, None)
        self.capabilities[model] = self.loaded.capabilities
        if not kept:
            self._seconds[model] = time.monotonic() - began
        log.info("Loaded %s on %s as %s in %.1f s", model, self.loaded.device, self.loaded.dtype, self.loaded.load_s)
        if self.loaded.note:
            log.info("%s", self.loaded.note)

    def update(self, model: LoadedModel) -> None:
        """Replace what is known of the loaded model; ignored if another one is loaded, or none."""
        if self.loaded is not None and self.loaded.name == model.name:
            self.loaded, self.capabilities[model.name] = model, model.capabilities

    def mark_lost(self, why: str, *, restarted: bool = True) -> None:
        """Mark the engine and its model as lost; logs `why` only on the first call. restarted: count it in `losses`."""
        if self.loaded is not None:
            log.error("%s", why)
            self.loaded, self._again, self.losses = None, True, self.losses + restarted

    async def _located(self, model: str) -> ModelSource:
        """Call `locate` with the timeout LOCATE_S. Raises ModelError."""
        found = Future[ModelSource]()

        def look() -> None:
            with contextlib.suppress(InvalidStateError):  # the caller timed out
                try:
                    found.set_result(self._locate(model))
                except Exception as error:
                    found.set_exception(error)

        # A daemon thread: the loop's executor threads would delay the exit of the process.
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
