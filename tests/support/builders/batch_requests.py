"""Runs requests through a batch, as many at once as fit its cache."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from bot.engine.batching.batch import Batch, RequestOutput
from bot.types.messages import SamplingParams

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. cancel_after: tokens after which it is cancelled; 0: never."""

    key: str
    ids: list[int]
    tokens: int
    params: SamplingParams = GREEDY
    cancel_after: int = 0
    eos: Sequence[int] = ()


@dataclass
class Answers:
    """A listener that admits requests in order, and collects their tokens. stepped: called after each step."""

    waiting: deque[Asked]
    stepped: Callable[[], None] = lambda: None
    made: dict[str, list[int]] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    failed: str = ""
    over: SimpleQueue[None] = field(default_factory=SimpleQueue)
    running: dict[str, Asked] = field(default_factory=dict)

    def on_step(self, batch: Batch, made: Sequence[RequestOutput], at: float) -> None:
        for each in made:
            if each.failed:
                self.failed = each.failed
                self.over.put(None)
                return
            tokens = self.made[each.key]
            tokens += each.tokens
            asked = self.running[each.key]
            if each.finished:
                del self.running[each.key]
            elif asked.cancel_after and len(tokens) >= asked.cancel_after:
                batch.cancel(each.key)
        self.stepped()
        self.admit(batch)

    def on_start(self, batch: Batch, key: str, cached: int, at: float) -> None:
        self.cached[key] = cached

    def on_cancelled(self, batch: Batch, keys: list[str]) -> None:
        for key in keys:
            del self.running[key]
        self.admit(batch)

    def admit(self, batch: Batch) -> None:
        """Adds requests that fit beside the running ones."""
        while self.waiting and len(self.running) < batch.max_running:
            reserved = sum(batch.blocks_for(len(asked.ids) + asked.tokens) for asked in self.running.values())
            first = self.waiting[0]
            if reserved + batch.blocks_for(len(first.ids) + first.tokens) > batch.cache_blocks:
                return
            self.running[first.key] = self.waiting.popleft()
            self.made[first.key] = []
            batch.add(first.key, first.ids, first.tokens, first.eos, first.params)
        if not self.running:
            self.over.put(None)


def answers(batch: Batch, asked: Sequence[Asked], stepped: Callable[[], None] = lambda: None) -> Answers:
    """Runs requests to their ends."""
    listener = Answers(deque(asked), stepped)
    batch.listener = listener
    listener.admit(batch)
    listener.over.get(timeout=100)
    return listener
