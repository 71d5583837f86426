"""The batch on a CPU: every step is one pass of the model over the next tokens of all conversations.

A step takes one token of each answer that is being written and, beside them, a chunk of the prompts that are still
being read (`share`), so long as the chunk may last (`Pace`). Sampling is one pass over all rows. In and out as
`batch.Batch` says.
"""

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

from bot.engine.batch import CannotBatch, Listener, Made
from bot.engine.pace import Pace
from bot.engine.row_attention import NAME, Part, Step
from bot.engine.rows import BLOCK, Row, Rows, Shape, blocks_for
from bot.engine.sampling import Choice, choose
from bot.messages import SamplingParams
from bot.models.failures import Failure, judge

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Session:
    """A request in the batch. ids: prompt and answer; those that are not in the row yet are to be computed next."""

    key: str
    ids: list[int]
    prompt: int
    left: int
    eos: frozenset[int]
    choice: Choice
    row: Row = field(default_factory=Row)

    @property
    def ahead(self) -> int:
        """How many tokens have to go through the model before the next one can be chosen."""
        return len(self.ids) - len(self.row.ids)


class RowBatch:
    """A running batch over a KV cache of `blocks` blocks."""

    def __init__(self, model: PreTrainedModel, blocks: int, vocabulary: int, pace: Pace, listener: Listener) -> None:
        """Raises CannotBatch if the model's attention cannot be ours."""
        self.listener = listener
        self.cache_blocks, self.cache_tokens = blocks, blocks * BLOCK
        self._model: Any = model  # its forward takes keywords that its class does not declare
        self._vocabulary = vocabulary
        self._pace = pace
        self._rows = Rows(_shape(model), blocks)
        self._sessions: dict[str, Session] = {}
        self._inbox: SimpleQueue[Session | str | None] = SimpleQueue()  # to begin, to cancel, or the end
        self._failure: Failure | None = None
        self._stopped = False
        try:
            model.set_attn_implementation(NAME)
        except (ValueError, AttributeError) as error:
            raise CannotBatch(str(error)) from error
        self._thread = Thread(target=self._run, name="batch", daemon=True)
        self._thread.start()

    def blocks_for(self, tokens: int) -> int:
        return blocks_for(tokens)

    def blocks(self) -> tuple[int, int]:
        return (0, 0) if self._stopped else (self._rows.free, self.cache_blocks)

    def add(self, key: str, ids: Sequence[int], max_tokens: int, eos: Sequence[int], params: SamplingParams) -> bool:
        choice = Choice(params, self._vocabulary)
        self._inbox.put(Session(key, list(ids), len(ids), max_tokens, frozenset(eos), choice))
        return not self.is_dead()

    def cancel(self, key: str) -> None:
        self._inbox.put(key)

    def is_dead(self) -> bool:
        return self._failure is not None or self._stopped

    def take_failure(self) -> Failure:
        self._thread.join(timeout=30)
        return self._failure or Failure("it ended by itself")

    def stop(self) -> None:
        self._inbox.put(None)
        self._thread.join()
        self._stopped = True
        self._sessions.clear()
        self._rows = Rows(_shape(self._model), 0)
        self._model.set_attn_implementation("sdpa")

    def _run(self) -> None:
        """The thread: steps while there is something to do."""
        try:
            with torch.inference_mode():
                while self._hear():
                    self._step()
        except Exception as error:  # whatever the model raises ends this batch, and Batching makes another
            log.error("a step failed\n%s", traceback.format_exc())  # as text: a record would hold the step's tensors
            self._failure = judge(error)
        if self._failure is not None:
            made = [Made(key, (), failed=self._failure.why) for key in self._sessions]
            self.listener.stepped(self, made, perf_counter())

    def _hear(self) -> bool:
        """Take in what is asked; wait for it if there is nothing to do. False at the end."""
        cancelled: list[str] = []
        try:
            while True:
                item = self._inbox.get(block=not self._sessions)
                if item is None:
                    return False
                if isinstance(item, Session):
                    self._begin(item)
                elif item in self._sessions:
                    self._rows.rest(self._sessions.pop(item).row)
                    cancelled.append(item)
                if cancelled and not self._sessions:
                    self.listener.gone(self, cancelled)
                    cancelled = []
        except Empty:
            pass
        if cancelled:
            self.listener.gone(self, cancelled)
        return True

    def _begin(self, session: Session) -> None:
        session.row = self._rows.take(session.ids, session.prompt + session.left)
        self._sessions[session.key] = session
        self.listener.started(self, session.key, len(session.row.ids), perf_counter())

    def _step(self) -> None:
        """One pass of the model, and a token for everyone whose prompt is through."""
        plan = self._plan()
        self._pace.begin(sum(count for _, count in plan), len(plan))
        parts = [self._part(session, count) for session, count in plan]
        ends = [end for (session, count), end in zip(plan, _ends(parts), strict=True) if count == session.ahead]
        logits = self._forward(plan, parts, ends or [0])
        for session, count in plan:
            done = len(session.row.ids)
            session.row.ids += session.ids[done : done + count]
        ready = [session for session, _ in plan if not session.ahead]
        made = self._choose(ready, logits) if ready else []
        self._pace.end()
        if made:
            self.listener.stepped(self, made, perf_counter())

    def _plan(self) -> list[tuple[Session, int]]:
        """Whose tokens go through the model now, and how many of each."""
        writing = [(session, 1) for session in self._sessions.values() if session.ahead == 1]
        reading = [session for session in self._sessions.values() if session.ahead > 1]
        counts = share([session.ahead for session in reading], self._pace.chunk)
        return writing + [(session, count) for session, count in zip(reading, counts, strict=True) if count]

    def _part(self, session: Session, count: int) -> Part:
        before = len(session.row.ids)
        self._rows.grow(session.row, before + count)
        return Part(session.row, before, count)

    def _forward(self, plan: Sequence[tuple[Session, int]], parts: Sequence[Part], ends: Sequence[int]) -> Tensor:
        """Logits [len(ends), vocabulary] of the tokens at these places of the line, in float32."""
        ids = [token for (session, _), part in zip(plan, parts, strict=True) for token in _next(session, part)]
        positions = [place for part in parts for place in range(part.before, part.before + part.count)]
        output = self._model(
            input_ids=torch.tensor([ids]),
            position_ids=torch.tensor([positions]),
            use_cache=False,
            logits_to_keep=torch.tensor(ends),
            step=Step(parts),
        )
        logits: Tensor = output.logits[0].float()
        return logits if len(logits) == len(ends) else logits[list(ends)]  # some models do not know logits_to_keep

    def _choose(self, ready: Sequence[Session], logits: Tensor) -> list[Made]:
        histories = [(session.ids[: session.prompt], session.ids[session.prompt :]) for session in ready]
        tokens = choose(logits, [session.choice for session in ready], histories)
        made = []
        for session, token in zip(ready, tokens, strict=True):
            session.ids.append(token)
            session.left -= 1
            finished = session.left <= 0 or token in session.eos
            if finished:
                del self._sessions[session.key]
                self._rows.rest(session.row)
            made.append(Made(session.key, (token,), finished))
        return made


def share(ahead: Sequence[int], budget: int) -> list[int]:
    """How many tokens of each prompt go into a step of `budget` tokens; `ahead`: what each has left, the oldest first.

    The oldest has half of it for itself, so that it gets on whatever comes; the rest goes to the shortest first, since
    they are the ones that can be answered soonest.
    """
    counts = [0] * len(ahead)
    if ahead:
        counts[0] = min(ahead[0], -(-budget // 2))
    for place in sorted(range(len(ahead)), key=lambda place: ahead[place] - counts[place]):
        counts[place] += min(ahead[place] - counts[place], budget - sum(counts))
    return counts


def _next(session: Session, part: Part) -> list[int]:
    return session.ids[part.before : part.before + part.count]


def _ends(parts: Sequence[Part]) -> list[int]:
    """Where the last token of each part stands in the line."""
    ends, end = [], -1
    for part in parts:
        end += part.count
        ends.append(end)
    return ends


def _shape(model: PreTrainedModel) -> Shape:
    config = model.config.get_text_config()
    heads, width = int(find_num_key_value_heads(config)), int(find_head_dim(config))
    return Shape(int(config.num_hidden_layers), heads, width, model.dtype)
