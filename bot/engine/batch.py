"""One run of transformers' continuous batching, made ready for us: our scheduler, our token picker, our way out.

In: requests that cannot harm it (the callers see to that). Out: events to a Listener, called on the batch's own thread,
so they should only be passed on. A run that died is not mended; make another.
"""

from collections.abc import Sequence
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import Protocol, cast

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

from bot.engine.sampling import Choice, TokenPicker
from bot.engine.scheduling import KeepingScheduler, Pace, free_blocks
from bot.messages import SamplingParams
from bot.models.failures import Failure, Unrecoverable, judge

PAGE = 16
MAX_RUNNING = 16
FIRST_CHUNK = 128
LARGEST_CHUNK = 512
SCHEDULER = "inhouse"


class CannotBatch(Exception):
    """This model does not run in the library's batch; the text says why."""


class Listener(Protocol):
    """Who hears of a batch, on the batch's thread."""

    def stepped(self, batch: "Batch", outputs: list[GenerationOutput], at: float) -> None:
        """A step made new tokens for these requests (or they failed), at perf_counter `at`."""

    def started(self, batch: "Batch", key: str, cached: int, at: float) -> None:
        """A request's prefill begins, with `cached` tokens of its prompt found in the cache."""

    def gone(self, batch: "Batch", keys: list[str]) -> None:
        """Cancelled requests are out of the batch and their blocks are free."""


class Batch:
    """A running batch over a cache of `blocks` pages of 16 tokens."""

    def __init__(self, model: PreTrainedModel, blocks: int, vocabulary: int, pace: Pace, listener: Listener) -> None:
        """Raises CannotBatch, or MemoryError if the cache does not fit."""
        self.listener = listener
        self._vocabulary = vocabulary
        scheduler = partial(KeepingScheduler, pace=pace, matched=self._matched, gone=self._gone)
        SCHEDULER_MAPPING[SCHEDULER] = cast(type[Scheduler], scheduler)
        try:
            self._manager = self._make(model, blocks, pace)
        except (ValueError, AttributeError, NotImplementedError) as error:
            raise CannotBatch(str(error)) from error
        finally:
            del SCHEDULER_MAPPING[SCHEDULER]
        assert self._manager.batch_processor is not None
        self._cache: PagedAttentionCache | None = self._manager.batch_processor.cache
        self._manager.start()

    @property
    def cache(self) -> PagedAttentionCache:
        """The KV cache, until stop()."""
        assert self._cache is not None
        return self._cache

    def blocks(self) -> tuple[int, int]:
        """(free, all) blocks, those kept only for reuse being free; from any thread, and (0, 0) after stop()."""
        cache = self._cache
        return free_blocks(cache) if cache is not None else (0, 0)

    def add(self, key: str, ids: Sequence[int], max_tokens: int, eos: Sequence[int], params: SamplingParams) -> bool:
        """Start a request under a key never used before; False if the batch is dead."""
        accepted = self._manager.add_request(
            list(ids),
            request_id=key,
            max_new_tokens=max_tokens,
            streaming=True,
            eos_token_id=list(eos),
            choice=Choice(params, self._vocabulary),
        )
        return accepted is not None

    def cancel(self, key: str) -> None:
        """End a request before the next step; `gone` follows, unless it finished first."""
        self._manager.cancel_request(key)

    def is_dead(self) -> bool:
        """Whether it takes no more requests."""
        return self._manager.background_thread_status.can_accept_new_requests() is not None

    def take_failure(self) -> Failure:
        """What a dead batch died of. The exception is forgotten here: its traceback holds on to the step's tensors."""
        self._manager.join(perf_counter(), timeout=30)
        status = self._manager.background_thread_status
        error: Exception | None = status.fatal_error
        status.fatal_error = None
        return judge(error) if error is not None else Failure("it ended by itself")

    def stop(self) -> None:
        """End the thread and let go of the cache."""
        self._manager.stop(block=True, hard_stop=True)
        self._manager.destroy()
        self._manager.batch_processor = self._cache = None  # whoever still holds this batch does not hold its cache

    def try_out(self) -> None:
        """Two short prompts: what cannot run shows now, kernels are warm, the pace is known.

        Raises CannotBatch, MemoryError or Unrecoverable.
        """
        self._try(4, FIRST_CHUNK, tokens=4)

    def probe(self) -> None:
        """One token: whether anything can be generated at all. Raises as try_out."""
        self._try(1, tokens=1)

    def _try(self, *lengths: int, tokens: int) -> None:
        trial = _Trial()
        kept, self.listener = self.listener, trial
        greedy = SamplingParams(temperature=0.0, repetition_penalty=1.0)
        for length in lengths:
            ids = [(7 * place + length) % self._vocabulary for place in range(length)]
            self.add(f"try {length}", ids, tokens, (), greedy)
            output = trial.outputs.get()
            while output.status != RequestStatus.FINISHED:
                if output.status == RequestStatus.FAILED:
                    _raise(self.take_failure())
                output = trial.outputs.get()
        self.listener = kept

    def _make(self, model: PreTrainedModel, blocks: int, pace: Pace) -> ContinuousBatchingManager:
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
        # Sampling happens in the picker, which leaves an argmax to the library; its own processors are not made.
        picker = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([TokenPicker(pace.end)]))
        picker.tensors_required = 1
        manager.logit_processor = picker
        manager.output_router = _Router(self)
        manager.warmup()  # makes the cache here and now, so that one which does not fit is an error of the load
        return manager

    def _matched(self, key: str, tokens: int) -> None:
        self.listener.started(self, key, tokens, perf_counter())

    def _gone(self, keys: list[str]) -> None:
        self.listener.gone(self, keys)


def _raise(failure: Failure) -> None:
    if failure.memory:
        raise MemoryError(failure.why)
    raise (Unrecoverable if failure.device_lost else CannotBatch)(failure.why)


class _Router(OutputRouter):
    """Hands every step's outputs on in one piece, instead of one callback for each request."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self._batch = batch

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self._batch.listener.stepped(self._batch, outputs, perf_counter())


class _Trial:
    """Listens while a batch is tried out."""

    def __init__(self) -> None:
        self.outputs: SimpleQueue[GenerationOutput] = SimpleQueue()

    def stepped(self, batch: Batch, outputs: list[GenerationOutput], at: float) -> None:
        for output in outputs:
            self.outputs.put(output)

    def started(self, batch: Batch, key: str, cached: int, at: float) -> None:
        return None

    def gone(self, batch: Batch, keys: list[str]) -> None:
        return None
