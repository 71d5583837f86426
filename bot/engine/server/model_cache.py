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
from bot.engine.server.generation import Generator
from bot.models import model_directory
from bot.models.device_errors import judge, release_memory
from bot.models.loading import Loaded, Report, explained
from bot.types.engine import LoadedModel, LoadProgress, ModelSource

log = logging.getLogger(__name__)

RELIEVE_MB = -512
"""Available RAM (MB, after the reserve) below which a new request first drops cached models."""

Stamp = tuple[tuple[str, int, int], ...]


class Hosted(Protocol):
    """What `host` builds from a loaded model."""

    @property
    def generator(self) -> Generator: ...

    @property
    def told(self) -> LoadedModel: ...


class Space(Protocol):
    """Reports available memory; implemented by bot.engine.memory.available_memory."""

    def left(self) -> MemoryUsage:
        """MB that may still be taken."""
        ...


H = TypeVar("H", bound=Hosted)


@dataclass(slots=True)
class CachedModel(Generic[H]):
    """A cached model. hosted: None while parked. takes: memory with a full KV cache. loaded: None once dropped."""

    source: ModelSource
    stamp: Stamp
    loaded: Loaded | None
    hosted: H | None
    takes: MemoryUsage
    weights_mb: int
    movable: bool

    @property
    def busy(self) -> bool:
        """Whether it has unfinished answers."""
        return self.hosted is not None and self.hosted.generator.running > 0


@dataclass(frozen=True, slots=True)
class Step(Generic[H]):
    """An eviction: park a model in RAM, or drop it."""

    resident: CachedModel[H]
    park: bool


def next_step(cached_models: Sequence[CachedModel[H]], need: MemoryUsage, left: MemoryUsage) -> Step[H] | None:
    """Return the next eviction that makes room for `need`; None if there is room, or nothing to evict.

    residents: least recently used first.
    """
    idle = [resident for resident in cached_models if not resident.busy]
    above = [resident for resident in idle if resident.takes.gpu]
    below = [resident for resident in idle if not resident.takes.gpu]
    if 0 < need.gpu > left.gpu and above:
        first = above[0]
        if first.movable and first.weights_mb + need.ram <= left.ram:
            return Step(first, park=True)
        if first.movable and below and idle.index(below[0]) < idle.index(first):
            return Step(below[0], park=False)  # less recently used; its RAM is needed to park the other
        return Step(first, park=False)
    if 0 < need.ram > left.ram:
        # Movable models are on the GPU and free no RAM, except for their KV offload.
        return next((Step(each, park=False) for each in idle if not above_only(each)), None)
    return None


def above_only(resident: CachedModel[H]) -> bool:
    """Whether a model takes no significant RAM."""
    return resident.takes.gpu > 0 and resident.movable and not resident.source.kv_offload_mb


class ModelCache(Generic[H]):
    """The model cache. `measure`: memory that this process takes now. `load`: loads a model from its files."""

    def __init__(
        self,
        space: Space,
        measure: Callable[[], MemoryUsage],
        load: Callable[[ModelSource, Report], Loaded],
    ) -> None:
        self._space, self._measure, self._load = space, measure, load
        self._kept: list[CachedModel[H]] = []  # least recently used first
        self._measured: dict[tuple[ModelSource, Stamp], MemoryUsage] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models that are ready, most recently used first; safe from any thread."""
        return tuple(resident.source.name for resident in reversed(tuple(self._kept)) if resident.hosted is not None)

    @property
    def running(self) -> int:
        """Number of unfinished answers of all models; safe from any thread."""
        ready = [resident.hosted for resident in tuple(self._kept)]
        return sum(hosted.generator.running for hosted in ready if hosted is not None)

    @property
    def unused_cache_mb(self) -> int:
        """RAM (MB) that the KV caches may still grow by."""
        hosted = [resident.hosted for resident in self._kept if resident.hosted is not None]
        return sum(_kv_in_ram(each.told) - each.generator.offloaded_mb for each in hosted)

    def find(self, source: ModelSource) -> H | None:
        """Return this model if it is ready, and mark it as used. Raises ModelError if its files are missing."""
        resident = self._take(source, stamp_of(Path(source.path)))
        if resident is None:
            return None
        self._kept.append(resident)
        return resident.hosted

    def bring(self, source: ModelSource, progress: Report, host: Callable[[Loaded], H]) -> H:
        """Load this model, or move it back to the GPU, and mark it as used.

        Raises what the load raises. Out of memory, it drops all other models and tries once more.
        """
        stamp = stamp_of(Path(source.path))
        parked = self._take(source, stamp)
        try:
            release_memory()  # unused memory must count as available
            self._make_room(self._need(source, stamp, parked))
            return self._bring(source, stamp, parked, progress, host)
        except Exception as error:
            if not _short_of_memory(error) or not self._kept:
                raise
            log.warning("%s did not fit beside other models, so they are dropped: %s", source.name, error)
        # Outside the except block, because the error's traceback keeps the loaded tensors alive.
        parked = None
        self.evict_all_but(None)
        return self._bring(source, stamp, None, progress, host)

    def evict_under_pressure(self, current: H) -> None:
        """Drop cached models, one by one, while the machine is short of memory."""
        while others := [each for each in self._kept if each.hosted is not current]:
            step = next_step(others, MemoryUsage(1, 0), MemoryUsage(self._left().ram - RELIEVE_MB, 0))
            if step is None:
                return
            self._do(step)

    def evict_all_but(self, current: H | None) -> None:
        """Drop all models but `current` and those with unfinished answers, and release unused memory."""
        for resident in [each for each in self._kept if current is None or each.hosted is not current]:
            if not resident.busy:
                self._drop(resident)
        release_memory()

    def _bring(
        self,
        source: ModelSource,
        stamp: Stamp,
        parked: CachedModel[H] | None,
        progress: Report,
        host: Callable[[Loaded], H],
    ) -> H:
        release_memory()
        before = self._measure()
        if parked is not None and parked.loaded is not None:
            progress(LoadProgress("back to the GPU", 0.1))
            loaded = parked.loaded
            with explained(source):
                _move(loaded, "cuda")
        else:
            loaded = self._load(source, progress)
        hosted = host(loaded)
        told = hosted.told
        release_memory()
        after = self._measure()
        takes = MemoryUsage(max(0, after.ram - before.ram) + _kv_in_ram(told), max(0, after.gpu - before.gpu))
        movable = source.quantization == "none" and not loaded.offloaded
        self._kept.append(CachedModel(source, stamp, loaded, hosted, takes, told.weights_mb, movable))
        if parked is None:
            other = takes.gpu - told.kv_cache_mb + wanted_kv_mb(source, loaded.dtype) if takes.gpu else 0
            self._measured[source, stamp] = replace(takes, gpu=other)
        return hosted

    def _need(self, source: ModelSource, stamp: Stamp, parked: CachedModel[H] | None) -> MemoryUsage:
        need = self._measured.get((source, stamp)) or expected(source)
        return need if parked is None else replace(need, ram=source.kv_offload_mb)

    def _left(self) -> MemoryUsage:
        """Available memory once all KV caches are full. Their fill level is unknown, so all count as empty."""
        left = self._space.left()
        return replace(left, ram=left.ram - self.unused_cache_mb)

    def _make_room(self, need: MemoryUsage) -> None:
        while (step := next_step(self._kept, need, self._left())) is not None:
            self._do(step)

    def _do(self, step: Step[H]) -> None:
        resident = step.resident
        log.info("%s is %s, to make room", resident.source.name, "parked in RAM" if step.park else "dropped")
        if step.park and resident.loaded is not None:
            self._close(resident)
            _move(resident.loaded, "cpu")
            resident.takes = MemoryUsage(resident.weights_mb, 0)
        else:
            self._drop(resident)
        release_memory()

    def _take(self, source: ModelSource, stamp: Stamp) -> CachedModel[H] | None:
        """Remove this model from the list and return it; a model whose files have changed is dropped instead."""
        for resident in [each for each in self._kept if each.source == source]:
            if resident.stamp == stamp:
                self._kept.remove(resident)
                return resident
            self._do(Step(resident, park=False))
        return None

    def _drop(self, resident: CachedModel[H]) -> None:
        self._kept.remove(resident)
        self._close(resident)
        resident.loaded = None  # other references must not keep the weights alive

    def _close(self, resident: CachedModel[H]) -> None:
        hosted, resident.hosted = resident.hosted, None
        if hosted is not None:
            hosted.generator.close()


def stamp_of(folder: Path) -> Stamp:
    """Return names, sizes and modification times of a model's files. Raises ModelError for an incomplete model."""
    model_directory.check(folder)
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _move(loaded: Loaded, device: str) -> None:
    cast(nn.Module, loaded.model).to(device)  # the library's annotation omits devices


def _kv_in_ram(told: LoadedModel) -> int:
    return (told.kv_cache_mb if told.device == "cpu" else 0) + told.kv_offload_mb


def _short_of_memory(error: Exception) -> bool:
    return judge(error).memory or (error.__cause__ is not None and judge(error.__cause__).memory)
