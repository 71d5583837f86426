"""Loads models, chooses a generator for each, and turns requests into answers.

Runs on the main thread, one call at a time (`stats` on any thread). Sends deltas through `emit`; errors are
InhouseErrors with a sentence for users. Prompts are built one by one on a separate thread, so that a long prompt does
not delay running answers. If a model cannot batch, it generates sequentially and LoadedModel.note says why.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bot.engine.batching.batch import CannotBatch
from bot.engine.client.protocol import Failed
from bot.engine.client.request_validation import PromptLimits, check_params, check_prompt
from bot.engine.memory.available_memory import AvailableMemory
from bot.engine.memory.leak_detector import LeakDetector, MemoryUsage
from bot.engine.memory.memory_estimate import bytes_per_token, cache_blocks
from bot.engine.server.answer import Answer, Emit, Generator, Meter, Post
from bot.engine.server.batched_generator import Batching, factory, kind_for
from bot.engine.server.compute_threads import DutyCycle, run_on_new_thread
from bot.engine.server.mixed_generator import Mixed
from bot.engine.server.model_cache import ModelCache
from bot.engine.server.sequential_generator import Sequential
from bot.engine.text.decoding import TextDecoder, own_tags
from bot.engine.text.prompts import PromptBuilder
from bot.models.device_errors import Unrecoverable, classify, release_memory
from bot.models.hardware import MB
from bot.models.loading import TransformersModel, layers_of, weights_bytes
from bot.models.loading import load as load_model
from bot.types.engine import Capabilities, EngineRequest, EngineStats, LoadedModel, LoadProgress, ModelSource
from bot.types.errors import ModelError, RequestFailed
from bot.types.messages import FinishReason

log = logging.getLogger(__name__)

LENGTHENED = ("longrope", "dynamic")
"""RoPE types whose frequencies change for the whole step once one sequence exceeds the original context window, while
keys in the cache keep the old ones. Context windows are capped at that length.
"""

CACHE_TOO_LARGE = (
    "The KV cache does not fit into the memory that the weights leave free. Lower INHOUSE_KV_CACHE_MB, or"
    " INHOUSE_KV_OFFLOAD_MB if it is set."
)


@dataclass(frozen=True, slots=True)
class _ServedModel:
    """A loaded model with its tokenizer, generator, prompt builder and limits."""

    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    generator: Generator
    prompts: PromptBuilder
    limits: PromptLimits
    eos: frozenset[int]
    info: LoadedModel


class EngineServer:
    """The current model, the cached ones, and their answers.

    `on_step` is called whenever a decoder layer begins to compute.
    """

    def __init__(self, post: Post, emit: Emit, on_step: Callable[..., None]) -> None:
        self._post = post
        self._emit = emit
        self._on_step = on_step
        self._meter = Meter()
        self._served: _ServedModel | None = None
        self._builder = ThreadPoolExecutor(1, "prompts")
        self._duty = DutyCycle(lambda: self.generating > 0)
        self._preparing: set[int] = set()  # streams whose prompt is being built
        self._aborted: set[int] = set()  # subset of _preparing
        self._process = psutil.Process()
        self._memory = LeakDetector(self._used_memory, release_memory)
        self._model_cache: ModelCache[_ServedModel] = ModelCache(
            AvailableMemory(_gpu_memory), self._used_memory, self._load_hooked
        )
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.WARNING)

    def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Load `source` while nothing runs. Raises ModelError (then no model is loaded) or Unrecoverable."""
        try:
            return run_on_new_thread(lambda: self._load(source, progress))
        except (ModelError, Unrecoverable):
            raise
        except Exception as error:
            failure = classify(error)
            if failure.device_lost:
                raise Unrecoverable(failure.why) from error
            log.exception("%s could not be loaded", source.name)
            why = f"{source.name} could not be loaded because of an unexpected error. The engine's log has the details."
            raise ModelError(why) from error

    @property
    def running(self) -> int:
        """Number of unfinished answers; safe from any thread."""
        return self.generating + self.preparing

    @property
    def generating(self) -> int:
        """Number of answers that generate or wait for room; safe from any thread."""
        return self._model_cache.running

    @property
    def preparing(self) -> int:
        """Number of answers whose prompt is being built; safe from any thread."""
        return len(self._preparing)

    @property
    def prepared_steps(self) -> int:
        """Counter that grows while prompts are built; safe from any thread."""
        return self._duty.pauses

    def generate(self, stream: int, request: EngineRequest) -> None:
        """Start an answer, or emit Failed."""
        try:
            served = self._checked(request)
            self._preparing.add(stream)
            self._builder.submit(self._prepare, served, stream, request)
        except Exception as error:
            self._preparing.discard(stream)
            self._fail(stream, error)

    def abort(self, stream: int) -> None:
        """Stop an answer at the next step boundary, or once its prompt is built."""
        if stream in self._preparing:
            self._aborted.add(stream)
        elif self._served is not None:
            self._served.generator.abort(stream)

    def stats(self) -> EngineStats:
        """Return current statistics; safe from any thread."""
        served = self._served  # read once: a load may replace it
        free, blocks = served.generator.blocks() if served else (0, 0)
        gpu_free, gpu_total = _gpu_memory()
        return EngineStats(
            model=served.source.name if served else "",
            running=self.running,
            tokens_per_s=self._meter.rate(),
            free_blocks=free,
            blocks=blocks,
            resident_mb=self._used_memory().ram,
            gpu_used_mb=(gpu_total - gpu_free) // MB,
            gpu_total_mb=gpu_total // MB,
            memory_limit_mb=self._memory.limit_mb,
            resident=self._model_cache.names,
        )

    def _load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        began = perf_counter()
        self._served = None
        served = self._model_cache.find(source)
        if served is None:
            self._memory.forget()
            served = self._model_cache.bring(source, progress, lambda loaded: self._serve(source, loaded, progress))
        if not self._memory.limit_mb:
            self._memory.begin(self._model_cache.unused_cache_mb)
        self._served = served
        return replace(served.info, load_s=perf_counter() - began, resident=self._model_cache.names)

    def _load_hooked(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> TransformersModel:
        # Checks the template before the weights, which may take minutes to load.
        loaded = load_model(source, progress, lambda tokenizer: _check_template(source, tokenizer, progress))
        for layer in layers_of(loaded.model):
            layer.register_forward_pre_hook(self._on_step)
        return loaded

    def _serve(
        self, source: ModelSource, loaded: TransformersModel, progress: Callable[[LoadProgress], None]
    ) -> _ServedModel:
        """Create the generator and the prompt builder for a loaded model; a batch also runs a trial."""
        progress(LoadProgress("trying the model out", 0.95))
        window = _window(source, loaded.model)
        generator, note = self._generator(source, loaded, window)
        try:
            return self._complete(source, loaded, generator, window, note)
        except BaseException:  # a GPU batch's thread would keep the model in memory
            generator.close()
            raise

    def _complete(
        self, source: ModelSource, loaded: TransformersModel, generator: Generator, window: int, note: str
    ) -> _ServedModel:
        """Create the prompt builder and limits for a model and its generator. Raises ModelError."""
        model, tokenizer = loaded.model, loaded.tokenizer
        if generator.cache_tokens is not None:
            window = min(window, generator.cache_tokens)
        limits = PromptLimits(int(model.config.get_text_config().vocab_size), window, generator.cache_tokens)
        prompts = PromptBuilder(tokenizer, source.template, window, source.name, self._duty.pause, loaded.pictures)
        drops = loaded.pictures is not None and not prompts.sees
        blind = "It reads text only, because its chat template has no place for pictures." if drops else ""
        cache_tokens = generator.cache_tokens or 0
        kv_cache_mb = cache_tokens * bytes_per_token(model) // MB if cache_tokens else 0
        batching = isinstance(generator, Batching | Mixed)
        info = LoadedModel(
            name=source.name,
            device=str(model.device),
            dtype=loaded.dtype,
            context_window=window,
            batching=batching,
            max_running=generator.max_running,
            weights_mb=weights_bytes(model) // MB,
            kv_cache_mb=kv_cache_mb,
            kv_cache_tokens=cache_tokens,
            load_s=0.0,
            note=" ".join(part for part in (loaded.note, blind, note) if part),
            kv_offload_mb=generator.offload_mb,
            capabilities=_capabilities(prompts, tokenizer),
        )
        return _ServedModel(
            source, tokenizer, generator, prompts, limits, _eos(model, tokenizer) | prompts.end_ids, info
        )

    def grown(self) -> str:
        """Return a sentence if the idle process exceeds its memory limit, else ''; safe from any thread."""
        return "" if self.running else self._memory.grown()

    def _used_memory(self) -> MemoryUsage:
        gpu = torch.cuda.memory_reserved() if torch.cuda.is_available() else 0
        return MemoryUsage(self._process.memory_info().rss // MB, gpu // MB)

    def _checked(self, request: EngineRequest) -> _ServedModel:
        """Check the parameters and return the current model. Raises RequestFailed."""
        served = self._served
        if served is None:
            raise RequestFailed("No model is loaded.")
        self._model_cache.evict_under_pressure(served)
        params = request.params
        check_params(params, seeds=served.generator.seeds)
        if params.most_tokens >= served.limits.context_window:
            raise RequestFailed(
                f"max_tokens ({params.most_tokens}) must be smaller than the context window of "
                f"{served.limits.context_window} tokens, which holds the prompt too."
            )
        return served

    def _prepare(self, served: _ServedModel, stream: int, request: EngineRequest) -> None:
        """Prompt thread: build the prompt and post `_begin` to the main thread."""
        params = request.params
        made: Answer | Exception
        try:
            asked_at = perf_counter()
            self._duty.begin()
            built = served.prompts.build(request.prompt, params.most_tokens, effort=params.think)
            check_prompt(built.ids, params.most_tokens, served.limits)
            continues = built.ids if request.prompt.prefix else ()
            decoder = TextDecoder(
                served.tokenizer,
                (*served.source.stop, *served.prompts.end_texts, *params.stop),
                continues,
                built.opening,
            )
            made = Answer(stream, built, params, decoder, served.eos, self._meter, asked_at)
        except Exception as error:
            made = error
        self._post(partial(self._begin, served, stream, made))

    def _begin(self, served: _ServedModel, stream: int, made: Answer | Exception) -> None:
        """Submit an answer whose prompt is built, unless it was aborted."""
        if stream not in self._preparing:
            return  # generate() failed to start the prompt thread
        self._preparing.discard(stream)
        aborted = stream in self._aborted
        self._aborted.discard(stream)
        try:
            if isinstance(made, Exception):
                raise made
            if aborted:
                self._emit(made.end(None, FinishReason.ABORT))
            else:
                served.generator.submit(made)
        except Unrecoverable:
            raise
        except Exception as error:
            self._fail(stream, error)

    def _fail(self, stream: int, error: Exception) -> None:
        """Emit Failed. Unexpected errors are logged and do not affect other answers."""
        if isinstance(error, RequestFailed):
            self._emit(Failed(stream, str(error)))
            return
        log.error("a request could not be prepared", exc_info=error)
        self._emit(
            Failed(stream, "The prompt for this conversation could not be built. The engine's log has the details.")
        )

    def _generator(self, source: ModelSource, loaded: TransformersModel, window: int) -> tuple[Generator, str]:
        """Choose a generator; also returns a note for users, or ''."""
        model = loaded.model
        alone = Sequential(model, self._post, self._emit, self._make_room, loaded.pictures)
        if not source.batching:
            return alone, ""
        if loaded.offloaded:
            return alone, "A model that is split between GPU and RAM answers one request at a time."
        if loaded.multimodal and model.device.type != "cpu":
            return alone, "A model for text and pictures answers one request at a time on a GPU."
        vocabulary = int(model.config.get_text_config().vocab_size)
        try:
            kind = kind_for(model, source.gpu_batch)
            blocks = cache_blocks(model, kind.block, kind.max_running, window, source.kv_cache_mb)
            start = factory(kind, source.kv_offload_mb, self._on_step)
            batch = Batching(start, model, blocks, vocabulary, self._post, self._emit, self._make_room)
            if loaded.pictures is None:
                return batch, ""
            return Mixed(model, batch, alone, self._emit), "Questions with pictures are answered one at a time."
        except CannotBatch as error:
            log.warning("%s cannot batch: %s", source.name, error)
            model.set_attn_implementation("sdpa")
            return alone, "The model's attention cannot be batched, so it answers one request at a time."
        except Exception as error:
            if not classify(error).memory:
                raise
            raise ModelError(CACHE_TOO_LARGE) from error

    def _make_room(self) -> None:
        """Drop the cached models that are not in use, after an answer ran out of memory."""
        self._model_cache.evict_all_but(self._served)


def _check_template(
    source: ModelSource, tokenizer: PreTrainedTokenizerBase, progress: Callable[[LoadProgress], None]
) -> None:
    """Raise ModelError unless the chat template can build prompts."""
    progress(LoadProgress("trying the chat template", 0.05))
    PromptBuilder(tokenizer, source.template, source.context_window, source.name)


def _capabilities(prompts: PromptBuilder, tokenizer: PreTrainedTokenizerBase) -> Capabilities:
    known = prompts.capabilities
    return replace(known, vision=prompts.sees, reasoning=bool(known.reasoning) or own_tags(tokenizer) is not None)


def _gpu_memory() -> tuple[int, int]:
    """(free, total) bytes of GPU memory."""
    # Before CUDA is initialised, the query would start to use a GPU that may be meant for other processes.
    return torch.cuda.mem_get_info() if torch.cuda.is_initialized() else (0, 0)


def _window(source: ModelSource, model: PreTrainedModel) -> int:
    """Return the context window in tokens: the smallest of the source's and the config's, or 2048."""
    config = model.config.get_text_config()
    known = [source.context_window, getattr(config, "max_position_embeddings", 0) or 0]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in LENGTHENED:
        known.append(rope.get("original_max_position_embeddings") or 0)
    return min((window for window in known if window > 0), default=2048)


def _eos(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return all token ids that end an answer."""
    own = getattr(model.generation_config, "eos_token_id", None)
    ids = own if isinstance(own, list) else [own]
    return frozenset(int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None and token >= 0)
