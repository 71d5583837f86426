"""How long a step of a batch may last: the number of prompt tokens that go into one, learned from the steps themselves.

A step takes what it takes to go on with the answers (its decode time, known for each number of them) and so much for
each token of a prompt. A prefill chunk is cut to what lasts MAX_STEPS decode steps by these, so that nobody who is
being answered waits much longer than that for the next word. It runs on the batch's own thread.
"""

from time import perf_counter

MAX_STEPS = 3
"""The longest step while somebody is being answered; the promise is 5, and one in a hundred takes half as long more."""
ALONE = 4
"""Times as many tokens while nobody is."""
UNIT = 8
"""Chunks are multiples of it, and at least one."""
FURTHER = 0.25
"""What another answer adds to a decode step at most, as a share of it."""
QUICK, SLOW = 0.25, 0.2
"""How much one step counts for what a token takes, and for what a decode step does."""


class Pace:
    """How many prompt tokens one step may take: `first` before anything is known, and `largest` at most."""

    def __init__(self, first: int, largest: int) -> None:
        self._first = first
        self._largest = largest
        self._decode_s: dict[int, float] = {}  # by how many answers a step went on with
        self._token_s = 0.0
        self._began = 0.0
        self._read = 0
        self._answers = 0

    def chunk(self, answers: int) -> int:
        """Tokens of prompts that may be read beside so many answers that are being written."""
        if not answers:
            return min(self._largest, ALONE * self.chunk(1))
        if not self._token_s:
            return self._first
        tokens = int((MAX_STEPS - 1) * self._bounds_s(answers)[0] / self._token_s)
        return max(UNIT, min(self._largest, tokens // UNIT * UNIT))

    def begin(self, read: int, answers: int) -> None:
        """A step over `read` tokens of prompts beside so many answers starts now."""
        self._began, self._read, self._answers = perf_counter(), read, answers

    def end(self) -> None:
        """The step is over: learn from it."""
        self.learn(self._read, self._answers, perf_counter() - self._began)

    def learn(self, read: int, answers: int, took_s: float) -> None:
        """A step over `read` tokens of prompts beside so many answers that are being written took so long."""
        least_s, most_s = self._bounds_s(answers)
        if answers and not read:
            self._decode_s[answers] = _mixed(self._decode_s.get(answers, took_s), took_s, SLOW)
        elif not self._decode_s:
            pass
        elif answers and answers not in self._decode_s and read <= max(UNIT, answers):  # few enough to be reckoned out
            self._decode_s[answers] = min(most_s, max(least_s, took_s - read * self._token_s))
        elif 2 * read >= self.chunk(max(1, answers)):  # what disturbs the rest of a prompt would be its tokens' cost
            cheap_s, dear_s = (max(1e-6, took_s - decode_s) / read for decode_s in (most_s, least_s))
            token_s = min(dear_s, max(cheap_s, self._token_s or dear_s))
            # A step that was too long counts at once, but no single moment makes a chunk less than half of what it was.
            too_long = answers and took_s > MAX_STEPS * most_s and token_s > self._token_s
            known = self._token_s or token_s
            self._token_s = min(token_s, 2 * known) if too_long else _mixed(known, token_s, QUICK)

    def _bounds_s(self, answers: int) -> tuple[float, float]:
        """What a decode step with so many answers takes at least and at most; what is known of fewer says it."""
        fewer = [known for known in self._decode_s if known <= answers]
        if not fewer:
            return (0.0, 0.0) if not answers else (least := min(self._decode_s.values(), default=0.0), least)
        least = self._decode_s[max(fewer)]
        return least, least * (1 + FURTHER * (answers - max(fewer)))


def _mixed(old: float, new: float, weight: float) -> float:
    return (1 - weight) * old + weight * new
