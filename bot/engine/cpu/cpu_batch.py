"""Implements Batch on a CPU: every step is one pass of the model over the next tokens of all conversations.

A step takes one token of each running answer, perhaps draft tokens, and a chunk of the prompts that are not read yet
(`share`), limited by the prefill budget (`PrefillBudget`). Sampling is one pass over all rows.
"""

import contextlib
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import perf_counter

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bot.engine.batching.batch import Listener, Made
from bot.engine.batching.prefill_budget import PrefillBudget
from bot.engine.batching.sampling import Choice, History, choose
from bot.engine.cpu.attention import forward, shape_of, switch
from bot.engine.cpu.attention_groups import Part
from bot.engine.cpu.kv_cache import BLOCK, Row, Rows, blocks_for
from bot.models.device_errors import Failure, judge
from bot.types.messages import SamplingParams

log = logging.getLogger(__name__)

MOST_GUESSES = 4
"""Most draft tokens in one step, of all answers together: a few cost almost nothing, many do."""

LENGTH = 3
"""Ids that must match."""
FEWEST = 12
"""Draft tokens proposed before their acceptance rate counts."""
GOOD = 0.25
"""Least acceptance rate at which more draft tokens are proposed."""


class Lookup:
    """Proposes draft tokens for one answer by prompt lookup: the ids that followed the same three ids last time.

    Works well for quotes, code and lists. A step that checks a few draft tokens takes hardly longer than one
    without (docs/measurements.md), and a rejected one costs nothing else.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = LENGTH
        self._made = self._right = 0

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """Return at most `most` draft tokens that may follow `ids`."""
        for place in range(self._known, len(ids)):
            self._after[tuple(ids[place - LENGTH : place])] = place
        self._known = max(self._known, len(ids))
        place = self._after.get(tuple(ids[-LENGTH:]), len(ids))
        if self._made >= FEWEST and self._right < GOOD * self._made:
            return []
        return list(ids[place : place + most])

    def learn(self, made: int, right: int) -> None:
        """Record that `made` draft tokens were checked and the first `right` of them accepted."""
        self._made += made
        self._right += right


@dataclass(slots=True, eq=False)
class Session:
    """A request in the batch. ids: prompt and answer; those that are not in the row yet are computed next."""

    key: str
    prompt: Sequence[int]
    ids: list[int]
    left: int
    eos: frozenset[int]
    choice: Choice
    row: Row = field(init=False)  # set when it begins
    guesses: list[int] = field(default_factory=list)
    lookup: Lookup = field(default_factory=Lookup)

    @property
    def ahead(self) -> int:
        """Number of tokens to compute before the next one can be sampled."""
        return len(self.ids) - len(self.row.ids)

    def part(self, count: int) -> Part:
        """Return the next `count` tokens; after the last one the draft tokens, each of which needs logits."""
        before = len(self.row.ids)
        wanted = 1 + len(self.guesses) if count == self.ahead else 0
        return Part(self.row, self.ids[before : before + count] + self.guesses, wanted)

    def histories(self) -> list[History]:
        """Return the history of the next token, and that of the token after each draft token."""
        answer = self.ids[len(self.prompt) :]
        return [(self.prompt, answer + self.guesses[:right]) for right in range(1 + len(self.guesses))]

    def take(self, tokens: Sequence[int]) -> Made:
        """Append the sampled tokens: one after the known ids and one after each draft token.

        A token counts if all draft tokens before it were accepted.
        """
        wrong = (place for place, guess in enumerate(self.guesses) if tokens[place] != guess)
        made = list(tokens[: next(wrong, len(self.guesses)) + 1])
        end = next((place for place, token in enumerate(made) if token in self.eos), len(made) - 1)
        made = made[: end + 1]
        if self.guesses:
            self.lookup.learn(len(self.guesses), len(made) - 1)
        self.ids += made
        self.left -= len(made)
        del self.row.ids[len(self.ids) - 1 :]
        self.choice.unsee(len(self.ids) - len(self.prompt) - 1)  # drops rejected draft tokens from the history
        return Made(self.key, made, self.left <= 0 or made[-1] in self.eos)


class RowBatch:
    """A Batch over a KV cache of `blocks` blocks."""

    block = BLOCK
    offload_mb = offloaded_mb = 0  # the cache itself is RAM

    def __init__(
        self, model: PreTrainedModel, blocks: int, vocabulary: int, pace: PrefillBudget, listener: Listener
    ) -> None:
        """Raises CannotBatch if the model cannot use our attention, or MemoryError or Unrecoverable."""
        self.listener = listener
        self.cache_blocks, self.cache_tokens = blocks, blocks * BLOCK
        self._model = model
        self._vocabulary = vocabulary
        self._pace = pace
        self._rows = Rows(shape_of(model), blocks)
        self._sessions: dict[str, Session] = {}
        self._inbox: SimpleQueue[Session | str | None] = SimpleQueue()  # begin, cancel, or stop
        self._failure: Failure | None = None
        self._stopped = False
        self._lock = Lock()  # guards _thread, and the last look at _inbox
        self._thread: Thread | None = None
        switch(model, vocabulary)

    def blocks_for(self, tokens: int) -> int:
        return blocks_for(tokens)

    def blocks(self) -> tuple[int, int]:
        return (0, 0) if self._stopped else (self._rows.free, self.cache_blocks)

    def add(self, key: str, ids: Sequence[int], max_tokens: int, eos: Sequence[int], params: SamplingParams) -> bool:
        choice = Choice(params, self._vocabulary)
        session = Session(key, ids, list(ids), max_tokens, frozenset(eos), choice)
        with self._lock:
            if self._thread is None:
                thread = Thread(target=self._run, name="batch", daemon=True)
                thread.start()  # if it raises, the next add tries again
                self._thread = thread
            self._inbox.put(session)
        return not self.is_dead()

    def cancel(self, key: str) -> None:
        self._inbox.put(key)

    def is_dead(self) -> bool:
        return self._failure is not None or self._stopped

    def take_failure(self) -> Failure:
        if self._thread is not None:
            self._thread.join(timeout=30)
        return self._failure or Failure("it ended by itself")

    def stop(self) -> None:
        self._inbox.put(None)
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        self._stopped = True
        self._sessions.clear()
        self._rows = Rows(shape_of(self._model), 0)

    def _run(self) -> None:
        """Batch thread: runs steps while there is work (see run_on_new_thread for why it then ends)."""
        try:
            with torch.inference_mode():
                while self._hear():
                    self._step()
        except Exception as error:  # any error ends this batch, and Batching starts another
            log.error("a step failed\n%s", traceback.format_exc())  # as text: a log record would keep the tensors
            failure = self._failure = judge(error)
        else:
            return
        # Later calls of add() see that the batch is dead; requests added before are reported as failed.
        with contextlib.suppress(Empty):
            while True:
                item = self._inbox.get_nowait()
                if isinstance(item, Session):
                    self._sessions[item.key] = item
        made = [Made(key, (), failed=failure.why) for key in self._sessions]
        self.listener.stepped(self, made, perf_counter())

    def _hear(self) -> bool:
        """Process the inbox. Returns False if there is no work, or to stop."""
        while True:
            with contextlib.suppress(Empty):
                while True:
                    item = self._inbox.get_nowait()
                    if item is None:
                        return False
                    self._take_in(item)
            if self._sessions:
                return True
            with self._lock:
                if self._inbox.empty():
                    self._thread = None
                    return False

    def _take_in(self, item: Session | str) -> None:
        if isinstance(item, Session):
            self._begin(item)
        elif item in self._sessions:
            self._rows.rest(self._sessions.pop(item).row)
            self.listener.gone(self, [item])

    def _begin(self, session: Session) -> None:
        self._sessions[session.key] = session
        session.row = self._rows.take(session.ids, len(session.ids) + session.left)
        self.listener.started(self, session.key, len(session.row.ids), perf_counter())

    def _step(self) -> None:
        """Run one pass of the model, and sample a token for every session whose prompt is read."""
        began = perf_counter()
        plan = self._plan()
        answers = sum(session.ahead == 1 for session, _ in plan)
        parts = [session.part(count) for session, count in plan]
        logits = forward(self._model, parts)
        ready = [session for (session, _), part in zip(plan, parts, strict=True) if part.wanted]
        made = self._choose(ready, logits) if ready else []
        self._pace.learn(sum(count for _, count in plan) - answers, answers, perf_counter() - began)
        if made:
            self.listener.stepped(self, made, perf_counter())

    def _plan(self) -> list[tuple[Session, int]]:
        """Choose the sessions of the next step, and how many tokens of each."""
        writing = [session for session in self._sessions.values() if session.ahead == 1]
        reading = [session for session in self._sessions.values() if session.ahead > 1]
        for session in writing:
            most = min(MOST_GUESSES // len(writing), session.left - 1) if not reading else 0
            session.guesses = session.lookup.guess(session.ids, most) if most else []
        counts = share([session.ahead for session in reading], self._pace.chunk(len(writing)))
        writing.sort(key=lambda session: session.row.where)  # adjacent rows share a call
        plan = [(session, 1) for session in writing]
        return plan + [(session, count) for session, count in zip(reading, counts, strict=True) if count]

    def _choose(self, ready: Sequence[Session], logits: Tensor) -> list[Made]:
        """Sample the next tokens from the logits of these sessions and their draft tokens."""
        histories = [history for session in ready for history in session.histories()]
        choices = [session.choice for session in ready for _ in range(1 + len(session.guesses))]
        tokens = iter(choose(logits, choices, histories))
        made = [session.take(list(islice(tokens, 1 + len(session.guesses)))) for session in ready]
        for each in made:
            if each.finished:
                self._rows.rest(self._sessions.pop(each.key).row)
        return made


def share(ahead: Sequence[int], budget: int) -> list[int]:
    """Return how many tokens of each prompt go into a step of `budget` tokens.

    ahead: tokens left of each prompt, oldest first. The oldest prompt gets half of the budget, so that it always
    advances. The rest goes to the shortest first, since these can be answered soonest.
    """
    counts = [0] * len(ahead)
    if ahead:
        counts[0] = min(ahead[0], -(-budget // 2))
    for place in sorted(range(len(ahead)), key=lambda place: ahead[place] - counts[place]):
        counts[place] += min(ahead[place] - counts[place], budget - sum(counts))
    return counts
