"""The Engine protocol: what the worker may ask of whatever generates text.

Everything here is plain data. Nothing imports torch: the implementation that does lives in a process of its own.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from bot.types.messages import Prompt, SamplingParams, TokenDelta


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to load, all of it on this disk, and how. Made by `bot.models` from a catalog entry and the settings.

    path: directory with config, tokenizer and safetensors. template: '' for the tokenizer's own chat template, else the
    name of one of ours in `bot.engine.text.prompts`. context_window: 0 means what the model's config says.
    """

    name: str
    path: str
    template: str = ""
    stop: tuple[str, ...] = ()
    context_window: int = 0
    device: str = "auto"  # auto, cpu or cuda
    dtype: str = "auto"  # auto, float16, bfloat16 or float32
    gpu_layers: int | None = None  # the first N decoder layers on the GPU; None is all
    quantization: str = "none"  # none, 8bit or 4bit
    kv_cache_mb: int | None = None  # None: measured on a GPU, 512 on the CPU
    kv_offload_mb: int = 0  # RAM for what the KV cache of a GPU has no more room for
    batching: bool = True  # False forces sequential generate()


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load has come. `fraction` is between 0 and 1."""

    stage: str
    fraction: float


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a load produced. `note` says, once, what a person should know (why it cannot batch, why the CPU is used).

    resident: the models that are ready in memory, this one first; a load of another one of them takes no time.
    """

    name: str
    device: str
    dtype: str
    context_window: int
    batching: bool
    max_running: int
    weights_mb: int
    kv_cache_mb: int
    kv_cache_tokens: int
    load_s: float
    note: str = ""
    kv_offload_mb: int = 0
    resident: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One generation."""

    request_id: str
    prompt: Prompt
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine now. tokens_per_s is over the last ten seconds; blocks and free_blocks are 0 without batching.

    memory_limit_mb: an idle engine that is resident with more than that ails; 0 while no model is loaded. resident: the
    models that are ready in memory, the last used first.
    """

    model: str
    running: int
    tokens_per_s: float
    free_blocks: int
    blocks: int
    resident_mb: int
    gpu_used_mb: int
    gpu_total_mb: int
    memory_limit_mb: int = 0
    resident: tuple[str, ...] = ()

    @property
    def cache_used(self) -> float | None:
        """The part of the KV cache that is in use, 0 to 1; None without batching."""
        return 1 - self.free_blocks / self.blocks if self.blocks else None


class Engine(Protocol):
    """Generates text. One model at a time; many requests at once where the model allows it."""

    async def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Make `source` the loaded model, replacing another; nothing may be running.

        Raises ModelError (no model is loaded then) or EngineDied.
        """
        ...

    def stream(self, request: EngineRequest) -> AsyncIterator[TokenDelta]:
        """Deltas of one generation; the last has finish_reason and usage.

        Raises RequestFailed (bad parameters, prompt too long, out of memory) or EngineDied. Closing the iterator
        aborts.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Ask a running generation to end at the next step boundary; its stream ends with finish_reason abort."""
        ...

    async def stats(self) -> EngineStats: ...

    async def ailing(self) -> str:
        """Wait until an idle engine should be closed and the model loaded again; a sentence says why.

        Its process ended, or has grown far beyond what the model explains. Whatever is told is told once.
        """
        ...

    async def close(self) -> None:
        """End the process; running streams raise EngineDied."""
        ...
