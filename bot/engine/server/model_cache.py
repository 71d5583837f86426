"""Keeps recently used models in memory, so that switching back to one is fast.

Evicts the least recently used models first, and only as many as the next model needs: what it took when it was loaded
before, or an estimate from its files. A GPU model is parked in RAM, without its KV cache, if it fits there and can be
moved. A model whose files have changed is loaded again. A model with unfinished answers is never evicted. Call `find`
and `bring` one at a time, while nothing is generated.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

from torch import nn

from bot.engine.memory.leak_detector import MemoryUsage
from bot.engine.memory.memory_estimate import expected, wanted_kv_mb
from bot.engine.server.answer import Generator
from bot.models import model_directory
from bot.models.device_errors import classify, release_memory
from bot.models.loading import Report, TransformersModel, translate_load_errors
from bot.types.engine import LoadedModel, LoadProgress, ModelSource

log = logging.getLogger(__name__)

PRESSURE_MB = -512
"""Available RAM (MB, after the reserve) below which a new request first drops cached models."""

Stamp = tuple[tuple[str, int, int], ...]


class Served(Protocol):
    """What `host` builds from a loaded model."""

    @property
    def generator(self) -> Generator: ...

    @property
    def info(self) -> LoadedModel: ...


class MemoryProbe(Protocol):
    """Reports available memory; implemented by bot.engine.memory.available_memory."""

    def available(self) -> MemoryUsage:
        """MB that may still be taken."""
        ...


H = TypeVar("H", bound=Served)


@dataclass(slots=True)
class CachedModel(Generic[H]):
    """A cached model. served: None while parked. usage: memory with a full KV cache. loaded: None once dropped."""

    source: ModelSource
    stamp: Stamp
    loaded: TransformersModel | None
    served: H | None
    usage: MemoryUsage
    weights_mb: int
    movable: bool

    @property
    def busy(self) -> bool:
        """Whether it has unfinished answers."""
        return self.served is not None and self.served.generator.running > 0


@dataclass(frozen=True, slots=True)
class Eviction(Generic[H]):
    """An eviction: park a model in RAM, or drop it."""

    cached: CachedModel[H]
    park: bool


def next_eviction(cached_models: Sequence[CachedModel[H]], need: MemoryUsage, left: MemoryUsage) -> Eviction[H] | None:
    """Return the next eviction that makes room for `need`; None if there is room, or nothing to evict.

    cached_models: least recently used first.
    """
    idle = [cached for cached in cached_models if not cached.busy]
    on_gpu = [cached for cached in idle if cached.usage.gpu]
    in_ram = [cached for cached in idle if not cached.usage.gpu]
    if 0 < need.gpu > left.gpu and on_gpu:
        first = on_gpu[0]
        if first.movable and first.weights_mb + need.ram <= left.ram:
            return Eviction(first, park=True)
        if first.movable and in_ram and idle.index(in_ram[0]) < idle.index(first):
            return Eviction(in_ram[0], park=False)  # less recently used; its RAM is needed to park the other
        return Eviction(first, park=False)
    if 0 < need.ram > left.ram:
        # Movable models are on the GPU and free no RAM, except for their KV offload.
        return next((Eviction(each, park=False) for each in idle if not only_on_gpu(each)), None)
    return None


def only_on_gpu(cached: CachedModel[H]) -> bool:
    """Whether a model takes no significant RAM."""
    return cached.usage.gpu > 0 and cached.movable and not cached.source.kv_offload_mb


class ModelCache(Generic[H]):
    """The model cache. `measure`: memory that this process takes now. `load`: loads a model from its files."""

    def __init__(
        self,
        machine: MemoryProbe,
        measure: Callable[[], MemoryUsage],
        load: Callable[[ModelSource, Report], TransformersModel],
    ) -> None:
        self._machine, self._measure, self._load = machine, measure, load
        self._models: list[CachedModel[H]] = []  # least recently used first
        self._measured: dict[tuple[ModelSource, Stamp], MemoryUsage] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models that are ready, most recently used first; safe from any thread."""
        return tuple(cached.source.name for cached in reversed(tuple(self._models)) if cached.served is not None)

    @property
    def running(self) -> int:
        """Number of unfinished answers of all models; safe from any thread."""
        ready = [cached.served for cached in tuple(self._models)]
        return sum(served.generator.running for served in ready if served is not None)

    @property
    def unused_cache_mb(self) -> int:
        """RAM (MB) that the KV caches may still grow by."""
        served = [cached.served for cached in self._models if cached.served is not None]
        return sum(_kv_in_ram(each.info) - each.generator.offloaded_mb for each in served)

    def find(self, source: ModelSource) -> H | None:
        """Return this model if it is ready, and mark it as used. Raises ModelError if its files are missing."""
        cached = self._remove(source, stamp_of(Path(source.path)))
        if cached is None:
            return None
        self._models.append(cached)
        return cached.served

    def bring(self, source: ModelSource, progress: Report, host: Callable[[TransformersModel], H]) -> H:
        """Load this model, or move it back to the GPU, and mark it as used.

        Raises what the load raises. Out of memory, it drops all other models and tries once more.
        """
        stamp = stamp_of(Path(source.path))
        parked = self._remove(source, stamp)
        try:
            release_memory()  # unused memory must count as available
            self._make_room(self._need(source, stamp, parked))
            return self._bring(source, stamp, parked, progress, host)
        except Exception as error:
            if not _short_of_memory(error) or not self._models:
                raise
            log.warning("%s did not fit beside other models, so they are dropped: %s", source.name, error)
        # Outside the except block, because the error's traceback keeps the loaded tensors alive.
        parked = None
        self.evict_all_but(None)
        return self._bring(source, stamp, None, progress, host)

    def evict_under_pressure(self, current: H) -> None:
        """Drop cached models, one by one, while the machine is short of memory."""
        while others := [each for each in self._models if each.served is not current]:
            eviction = next_eviction(others, MemoryUsage(1, 0), MemoryUsage(self._left().ram - PRESSURE_MB, 0))
            if eviction is None:
                return
            self._evict(eviction)

    def evict_all_but(self, current: H | None) -> None:
        """Drop all models but `current` and those with unfinished answers, and release unused memory."""
        for cached in [each for each in self._models if current is None or each.served is not current]:
            if not cached.busy:
                self._drop(cached)
        release_memory()

    def _bring(
        self,
        source: ModelSource,
        stamp: Stamp,
        parked: CachedModel[H] | None,
        progress: Report,
        host: Callable[[TransformersModel], H],
    ) -> H:
        release_memory()
        before = self._measure()
        if parked is not None and parked.loaded is not None:
            progress(LoadProgress("back to the GPU", 0.1))
            loaded = parked.loaded
            with translate_load_errors(source):
                _move(loaded, "cuda")
        else:
            loaded = self._load(source, progress)
        served = host(loaded)
        info = served.info
        release_memory()
        after = self._measure()
        usage = MemoryUsage(max(0, after.ram - before.ram) + _kv_in_ram(info), max(0, after.gpu - before.gpu))
        movable = source.quantization == "none" and not loaded.offloaded
        self._models.append(CachedModel(source, stamp, loaded, served, usage, info.weights_mb, movable))
        if parked is None:
            other = usage.gpu - info.kv_cache_mb + wanted_kv_mb(source, loaded.dtype) if usage.gpu else 0
            self._measured[source, stamp] = replace(usage, gpu=other)
        return served

    def _need(self, source: ModelSource, stamp: Stamp, parked: CachedModel[H] | None) -> MemoryUsage:
        need = self._measured.get((source, stamp)) or expected(source)
        return need if parked is None else replace(need, ram=source.kv_offload_mb)

    def _left(self) -> MemoryUsage:
        """Available memory once all KV caches are full. Their fill level is unknown, so all count as empty."""
        left = self._machine.available()
        return replace(left, ram=left.ram - self.unused_cache_mb)

    def _make_room(self, need: MemoryUsage) -> None:
        while (eviction := next_eviction(self._models, need, self._left())) is not None:
            self._evict(eviction)

    def _evict(self, eviction: Eviction[H]) -> None:
        cached = eviction.cached
        log.info("%s is %s, to make room", cached.source.name, "parked in RAM" if eviction.park else "dropped")
        if eviction.park and cached.loaded is not None:
            self._close(cached)
            _move(cached.loaded, "cpu")
            cached.usage = MemoryUsage(cached.weights_mb, 0)
        else:
            self._drop(cached)
        release_memory()

    def _remove(self, source: ModelSource, stamp: Stamp) -> CachedModel[H] | None:
        """Remove this model from the list and return it; a model whose files have changed is dropped instead."""
        for cached in [each for each in self._models if each.source == source]:
            if cached.stamp == stamp:
                self._models.remove(cached)
                return cached
            self._evict(Eviction(cached, park=False))
        return None

    def _drop(self, cached: CachedModel[H]) -> None:
        self._models.remove(cached)
        self._close(cached)
        cached.loaded = None  # other references must not keep the weights alive

    def _close(self, cached: CachedModel[H]) -> None:
        served, cached.served = cached.served, None
        if served is not None:
            served.generator.close()


def stamp_of(folder: Path) -> Stamp:
    """Return names, sizes and modification times of a model's files. Raises ModelError for an incomplete model."""
    model_directory.check(folder)
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _move(loaded: TransformersModel, device: str) -> None:
    cast(nn.Module, loaded.model).to(device)  # the library's annotation omits devices


def _kv_in_ram(info: LoadedModel) -> int:
    return (info.kv_cache_mb if info.device == "cpu" else 0) + info.kv_offload_mb


def _short_of_memory(error: Exception) -> bool:
    return classify(error).memory or (error.__cause__ is not None and classify(error.__cause__).memory)
