"""The Engine protocol between the worker and the text generator, and its plain data types.

Nothing here imports torch: the implementation runs it in a separate process.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bot.types.messages import Prompt, SamplingParams, TokenDelta


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model on local disk and how to load it. `bot.models` makes it from a catalog entry and the settings.

    path: directory with config, tokenizer and safetensors. template: a chat template of `bot.engine.text.prompts`, ''
    for the tokenizer's own. context_window: 0 uses the model's config. tokenizer: directory of the tokenizer of a
    server's model (`path` is its id there); '' if it is not on this machine.
    """

    name: str
    path: str
    template: str = ""
    stop: tuple[str, ...] = ()
    context_window: int = 0
    device: str = "auto"  # auto, cpu or cuda
    dtype: str = "auto"  # auto, float16, bfloat16 or float32
    gpu_layers: int | None = None  # number of decoder layers on the GPU, from the first; None is all
    quantization: str = "none"  # none, 8bit or 4bit
    kv_cache_mb: int | None = None  # None: measured on a GPU, 512 on the CPU
    kv_offload_mb: int = 0  # RAM for KV cache blocks that the GPU evicts
    gpu_batch: str = "library"  # on a GPU: library (transformers' paged batch) or rows (our own)
    batching: bool = True  # False forces sequential generate()
    tokenizer: str = ""
    cache_dir: str = ""  # keeps what was measured on this machine; '' for no measurement


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Progress of a load. `fraction` is between 0 and 1.

    message: shown to users instead of 'loading NAME'; `stage` then has the details for operators.
    """

    stage: str
    fraction: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded model can do; None where its server does not say.

    reasoning: it may think before it answers. efforts: values of /think that it knows, of off, low and high; None: its
    server does not say. tools: it calls functions. vision: it reads pictures. lacks: sampling parameters that it does
    not take, sorted.
    """

    reasoning: bool | None = None
    tools: bool | None = None
    vision: bool | None = None
    lacks: tuple[str, ...] = ()
    efforts: tuple[str, ...] | None = None

    def thinks(self, effort: str) -> bool | None:
        """Whether it may think with this value of /think ('' for the default); None if that is not known."""
        if self.efforts and "off" in self.efforts:
            return effort in ("low", "high")
        return self.reasoning

    @property
    def abilities(self) -> tuple[str, ...]:
        """What it is known to do, for people: 'thinks', 'calls tools', 'sees pictures'."""
        known = (("thinks", self.reasoning), ("calls tools", self.tools), ("sees pictures", self.vision))
        return tuple(word for word, can in known if can)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """Result of a load. `note` is shown to users once (why the model cannot batch, why it runs on the CPU).

    max_running: most requests at once. resident: models ready in memory, this one first; switching to one of them takes
    no load time.
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
    capabilities: Capabilities = Capabilities()


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Input of one generation. `conversation` and `workspace`: stable opaque ids, for caches and routers."""

    request_id: str
    prompt: Prompt
    params: SamplingParams
    conversation: str = ""
    workspace: str = ""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Current engine statistics. tokens_per_s: average of the last 10 s. blocks, free_blocks: 0 without batching.

    memory_limit_mb: resident memory above which an idle engine is unhealthy; 0 while no model is loaded. resident:
    models ready in memory, most recently used first.
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
        """Used fraction of the KV cache, 0 to 1; None without batching."""
        return 1 - self.free_blocks / self.blocks if self.blocks else None


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server of an engine. name: host and port, for operators. kind: its software. problem: '' if it is usable.

    running, requests, failures: of this service. models: ids of what it offers.
    """

    name: str
    kind: str
    problem: str
    running: int
    requests: int
    failures: int
    models: tuple[str, ...]


@runtime_checkable
class ModelServers(Protocol):
    """An engine whose models are on servers."""

    @property
    def states(self) -> tuple[ServerState, ...]:
        """The servers, in the order of the settings."""
        ...

    @property
    def offered(self) -> tuple[str, ...]:
        """Ids of the models that can be used now, sorted."""
        ...

    def on_change(self, changed: Callable[[LoadedModel], None]) -> None:
        """Have `changed` called when the loaded model changes because its servers do: how many requests it takes."""
        ...

    @property
    def seeing(self) -> tuple[str, ...]:
        """Ids of the models that servers say can see, sorted."""
        ...


class Engine(Protocol):
    """Generates text with one model at a time; runs requests concurrently where the model allows it."""

    async def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Replace the loaded model by `source`; no request may be running.

        Raises ModelError or EngineDied; no model is loaded then.
        """
        ...

    def stream(self, request: EngineRequest) -> AsyncGenerator[TokenDelta, None]:
        """Stream one generation; the last delta has finish_reason and usage. Closing the iterator aborts it.

        Raises RequestFailed (bad parameters, prompt too long, out of memory) or EngineDied.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Abort a generation at the next step boundary; its stream ends with finish_reason abort."""
        ...

    async def stats(self) -> EngineStats: ...

    async def wait_until_unhealthy(self) -> str:
        """Wait until an idle engine is unhealthy and should be restarted; returns the reason as a sentence.

        Reasons: the process exited, or its memory grew far above the model's needs. Each reason is reported once.
        """
        ...

    async def close(self) -> None:
        """Stop the process; running streams raise EngineDied."""
        ...
