"""Implements Batch on a GPU with transformers' continuous batching.

Replaces the library's scheduler, logits processors and output router with our own.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import cast

from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousMixin,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, Scheduler

from bot.engine.batching.batch import LARGEST_CHUNK, MAX_RUNNING, CannotBatch, Listener, RequestOutput
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.batching.sampling import RequestSampler, SamplingProcessor
from bot.engine.gpu.scheduler import CachingScheduler, free_blocks
from bot.models.device_errors import Failure, classify
from bot.types.messages import SamplingParams

MB = 1 << 20
PAGE = 16
SCHEDULER = "inhouse"


class PagedBatch:
    """A Batch over a cache of `blocks` pages."""

    block = PAGE
    max_running = MAX_RUNNING

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: int,
        vocabulary: int,
        prefill_budget: PrefillBudget,
        listener: Listener,
        offload_mb: int = 0,
    ) -> None:
        """offload_mb: RAM for blocks evicted from the cache.

        Raises CannotBatch, or an out-of-memory error if the cache does not fit.
        """
        self.listener = listener
        self._vocabulary = vocabulary
        scheduler = partial(
            CachingScheduler,
            prefill_budget=prefill_budget,
            matched=self._matched,
            cancelled=self._report_cancelled,
            offload=offload_mb * MB,
        )
        SCHEDULER_MAPPING[SCHEDULER] = cast(type[Scheduler], scheduler)
        try:
            self._manager = self._make(model, blocks, prefill_budget)
        except (ValueError, AttributeError, NotImplementedError) as error:
            raise CannotBatch(str(error)) from error
        finally:
            del SCHEDULER_MAPPING[SCHEDULER]
        assert self._manager.batch_processor is not None
        self._cache: PagedAttentionCache | None = self._manager.batch_processor.cache
        self.offload_mb = offload_mb if self.cache.use_prefix_sharing else 0
        self._manager.start()

    @property
    def cache(self) -> PagedAttentionCache:
        """The library's KV cache, until stop()."""
        assert self._cache is not None
        return self._cache

    @property
    def cache_blocks(self) -> int:
        return self.cache.num_sectors

    @property
    def cache_tokens(self) -> int:
        """Capacity for one conversation; layers with a sliding window take blocks of their own from the same cache."""
        most = self.cache.num_sectors * self.cache.tokens_per_sector
        return bisect_right(range(most + 1), self.cache_blocks, key=self.blocks_for) - 1

    @property
    def offloaded_mb(self) -> int:
        processor = self._manager.batch_processor
        scheduler = processor.scheduler if processor is not None else None
        return scheduler.offloaded // MB if isinstance(scheduler, CachingScheduler) else 0

    def blocks_for(self, tokens: int) -> int:
        parts = self.cache.cache_allocators.values()
        return sum(-(-part.needs_new_blocks("", 0, tokens) // part.blocks_per_sector) for part in parts)

    def blocks(self) -> tuple[int, int]:
        cache = self._cache
        return free_blocks(cache) if cache is not None else (0, 0)

    def add(self, key: str, ids: Sequence[int], max_tokens: int, eos: Sequence[int], params: SamplingParams) -> bool:
        accepted = self._manager.add_request(
            list(ids),
            request_id=key,
            max_new_tokens=max_tokens,
            streaming=True,
            eos_token_id=list(eos),
            sampler=RequestSampler(params, self._vocabulary),
        )
        return accepted is not None

    def cancel(self, key: str) -> None:
        self._manager.cancel_request(key)

    def has_failed(self) -> bool:
        return self._manager.background_thread_status.can_accept_new_requests() is not None

    def take_failure(self) -> Failure:
        self._manager.join(perf_counter(), timeout=30)
        status = self._manager.background_thread_status
        error: Exception | None = status.fatal_error
        status.fatal_error = None
        return classify(error) if error is not None else Failure("it ended by itself")

    def stop(self) -> None:
        self._manager.stop(block=True, hard_stop=True)
        self._manager.destroy()
        self._manager.batch_processor = self._cache = None  # other references must not keep the cache alive

    def _make(self, model: PreTrainedModel, blocks: int, prefill_budget: PrefillBudget) -> ContinuousBatchingManager:
        manager: ContinuousBatchingManager = cast(ContinuousMixin, model).init_continuous_batching(
            GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=1),
            ContinuousBatchingConfig(
                page_size=PAGE,
                num_blocks=blocks,
                max_batch_tokens=LARGEST_CHUNK + MAX_RUNNING,
                max_requests_per_batch=MAX_RUNNING,
                max_memory_percent=0.9,
                safety_margin=0.0,
                scheduler_type=SCHEDULER,
                use_async_batching=False,
                use_cuda_graph=False,
                auto_switch_to_flash=False,
                per_request_processors=True,
            ),
        )
        # SamplingProcessor samples and leaves an argmax to the library, whose own processors are not created.
        picker = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([SamplingProcessor(prefill_budget.end)]))
        picker.tensors_required = 1
        manager.logit_processor = picker
        manager.output_router = self._router = _Router(self)
        manager.warmup()  # allocates the cache now, so that a lack of memory fails the load
        return manager

    def _matched(self, key: str, tokens: int) -> None:
        self.listener.on_start(self, key, tokens, perf_counter())

    def _report_cancelled(self, keys: list[str]) -> None:
        self._router.forget(keys)
        self.listener.on_cancelled(self, keys)


class _Router(OutputRouter):
    """Forwards each step's outputs in one call, instead of one callback per request."""

    def __init__(self, batch: PagedBatch) -> None:
        super().__init__()
        self._batch = batch
        self._forwarded: dict[str, int] = {}  # tokens already forwarded, by request

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self._batch.listener.on_step(self._batch, [self._made(output) for output in outputs], perf_counter())

    def forget(self, keys: Sequence[str]) -> None:
        """Drop the counts of requests that left the batch."""
        for key in keys:
            self._forwarded.pop(key, None)

    def _made(self, output: GenerationOutput) -> RequestOutput:
        key = output.request_id
        if output.status == RequestStatus.FAILED:
            self.forget([key])
            return RequestOutput(key, (), failed=str(output.error))
        new = output.generated_tokens[self._forwarded.get(key, 0) :]
        finished = output.status == RequestStatus.FINISHED
        if finished:
            self.forget([key])
        else:
            self._forwarded[key] = len(output.generated_tokens)
        return RequestOutput(key, new, finished)
