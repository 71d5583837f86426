"""Simulates a machine's memory and models that use it, for tests of the model cache (`ModelCache`), which is real."""

import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bot.engine.memory.leak_detector import MemoryUsage
from bot.engine.server.model_cache import ModelCache
from bot.types.engine import LoadedModel, ModelSource
from bot.types.errors import ModelError

WEIGHTS, CACHE = 1000, 500


@dataclass
class Machine:
    """RAM and GPU memory in MB, and what the engine process uses of them."""

    ram: int = 100_000
    gpu: int = 0
    taken: MemoryUsage = field(default_factory=lambda: MemoryUsage(300, 0))

    def available(self) -> MemoryUsage:
        return MemoryUsage(self.ram - self.taken.ram, self.gpu - self.taken.gpu)

    def take(self, ram: int = 0, gpu: int = 0) -> None:
        self.taken = MemoryUsage(self.taken.ram + ram, self.taken.gpu + gpu)


@dataclass
class Model:
    """Weights that can be moved between devices."""

    machine: Machine
    device: str

    def to(self, device: str) -> None:
        assert device != self.device
        self.leave()
        self.device = device
        self.arrive()

    def arrive(self) -> None:
        """Takes its memory."""
        self.machine.take(**{self.place: WEIGHTS})

    def leave(self) -> None:
        """Frees its memory."""
        self.machine.take(**{self.place: -WEIGHTS})

    @property
    def place(self) -> str:
        return "gpu" if self.device == "cuda" else "ram"


@dataclass
class Generator:
    """Takes its KV cache when created on a GPU, none in RAM; a test sets `running`."""

    model: Model
    running: int = 0
    closed: bool = False
    offload_mb: int = 0
    offloaded_mb: int = 0

    def __post_init__(self) -> None:
        if self.model.device == "cuda":
            self.model.machine.take(gpu=CACHE)

    def close(self) -> None:
        self.closed = True
        if self.model.device == "cuda":
            self.model.machine.take(gpu=-CACHE)


@dataclass(eq=False)
class FakeLoaded:
    """What a load returns. The cache drops a model by dropping this."""

    model: Model
    offloaded: bool
    name: str
    dtype: str = "float32"


@dataclass(eq=False)
class ServedModel:
    """A hosted model: the result of a load."""

    model: Model
    generator: Any
    info: LoadedModel


@dataclass
class ModelCacheSetup:
    """Loads models by name and logs each step. shortages: how many loads fail for lack of memory."""

    root: Path
    machine: Machine
    device: str = "cpu"
    fixed: bool = False  # split between GPU and RAM: it cannot be moved
    libraries: int = 0  # RAM that the first load takes for libraries
    shortages: int = 0
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cached_models: ModelCache[ServedModel] = ModelCache(self.machine, lambda: self.machine.taken, self._load)

    def source(self, name: str, **how: Any) -> ModelSource:
        folder = self.root / name
        if not folder.exists():
            folder.mkdir()
            for file in ("config.json", "tokenizer.json", "model.safetensors"):
                (folder / file).write_text("{}")
        return ModelSource(name, str(folder), **{"device": "cpu", "dtype": "float32", "kv_cache_mb": CACHE, **how})

    def bring(self, name: str, **how: Any) -> ServedModel:
        """Finds or loads a model, as the engine's host does."""
        source = self.source(name, **how)
        served = self.cached_models.find(source)
        if served is None:
            served = self.cached_models.bring(source, lambda _: None, self._host)
        return served

    def _load(self, source: ModelSource, progress: Any) -> Any:
        self.log.append(f"load {source.name}")
        if self.shortages:
            self.shortages -= 1
            raise ModelError("There is not enough memory.") from torch.OutOfMemoryError("CUDA out of memory.")
        model = Model(self.machine, self.device)
        model.arrive()
        self.machine.take(ram=self.libraries)
        self.libraries = 0
        loaded = FakeLoaded(model, self.fixed, source.name)
        weakref.finalize(loaded, self._dropped, source.name, model).atexit = False
        return loaded

    def _dropped(self, name: str, model: Model) -> None:
        self.log.append(f"drop {name}")
        model.leave()

    def _host(self, loaded: Any) -> ServedModel:
        name = loaded.name
        self.log.append(f"host {name}")
        info = LoadedModel(name, loaded.model.device, "float32", 512, True, 16, WEIGHTS, CACHE, 1000, 0.0)
        return ServedModel(loaded.model, Generator(loaded.model), info)
