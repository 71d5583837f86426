"""Learns from a batch's steps how many prompt tokens one step may take.

A step lasts its decode time (known for each number of answers) plus a cost for each prompt token. A prefill chunk is
limited so that a step lasts at most MAX_STEPS decode steps, which bounds the delay between the tokens of running
answers. It runs on the batch's own thread.
"""

from time import perf_counter

MAX_STEPS = 3
"""Longest step beside running answers, in decode steps. The stated limit is 5; one step in a hundred takes half as long
again.
"""
ALONE = 4
"""Factor on the chunk while no answer is running."""
UNIT = 8
"""Chunks are multiples of this, and at least this."""
FURTHER = 0.25
"""Most that each further answer adds to a decode step, as a share of it; together at most MAX_STEPS - 1."""
QUICK = 0.25
"""Weight of one step in the estimated cost of a prompt token."""
SLOW, SURE = 0.2, 0.5
"""Weight of a decode step in its estimate if it took longer than the estimate, and if it did not."""


class PrefillBudget:
    """Prefill budget, in tokens per step: `first` before any measurement, and `largest` at most."""

    def __init__(self, first: int, largest: int) -> None:
        self._first = first
        self._largest = largest
        self._decode_s: dict[int, float] = {}  # decode time by number of answers
        self._token_s = 0.0
        self._began = 0.0
        self._read = 0
        self._answers = 0

    def chunk(self, answers: int) -> int:
        """Return how many prompt tokens a step may read beside so many running answers."""
        if not answers:
            return min(self._largest, ALONE * self.chunk(1))
        if not self._token_s:
            return self._first
        tokens = int((MAX_STEPS - 1) * self._bounds_s(answers)[0] / self._token_s)
        return max(UNIT, min(self._largest, tokens // UNIT * UNIT))

    def begin(self, read: int, answers: int) -> None:
        """Record the start of a step over `read` prompt tokens beside so many answers."""
        self._began, self._read, self._answers = perf_counter(), read, answers

    def end(self) -> None:
        """Record the end of the step, and learn from it."""
        self.learn(self._read, self._answers, perf_counter() - self._began)

    def learn(self, read: int, answers: int, took_s: float) -> None:
        """Update the estimates with a step over `read` prompt tokens beside so many answers."""
        least_s, most_s = self._bounds_s(answers)
        if answers and not read:
            known = self._decode_s.get(answers) or min(took_s, most_s or took_s)
            # Noise only makes steps longer, and longer steps allow larger chunks: faster steps get more weight.
            self._decode_s[answers] = _mixed(known, min(took_s, 2 * known), SLOW if took_s > known else SURE)
            self._carry(answers)
        elif not self._decode_s:
            pass
        elif answers and answers not in self._decode_s and read <= max(UNIT, answers):  # few: subtract their cost
            decode_s = min(most_s, max(least_s, took_s - read * self._token_s))
            self._decode_s[answers] = (least_s + decode_s) / 2  # the mean: the tokens may have taken the rest
        elif 2 * read >= self.chunk(max(1, answers)):  # for fewer tokens noise would dominate their cost
            self._learn_token(read, took_s - most_s, took_s - least_s)

    def _learn_token(self, read: int, least_s: float, most_s: float) -> None:
        """Update the token cost: `read` tokens took at least `least_s` and at most `most_s`."""
        # Lower costs would not make larger chunks, and would take long to correct.
        floor = (MAX_STEPS - 1) * min(self._decode_s.values()) / self._largest
        dearest = max(floor, most_s / read)
        known = self._token_s or dearest
        token_s = min(dearest, max(least_s / read, known))
        # One slow step at most halves the chunk.
        self._token_s = min(2 * known, _mixed(known, token_s, QUICK))

    def _carry(self, answers: int) -> None:
        """Raise the estimates of other numbers of answers towards this one, so that all follow a slower machine."""
        now = self._decode_s[answers]
        for known, took in self._decode_s.items():
            least = now / _times(answers - known)
            if took < least:
                self._decode_s[known] = _mixed(took, least, SLOW)

    def _bounds_s(self, answers: int) -> tuple[float, float]:
        """Return the least and the most time of a decode step with so many answers, from all estimates.

        A step takes no longer than one with more answers, and not much longer than one with fewer.
        """
        if not answers or not self._decode_s:
            return 0.0, 0.0
        most = min(took * _times(answers - known) for known, took in self._decode_s.items())
        fewer = [known for known in self._decode_s if known <= answers]
        return min(most, self._decode_s[max(fewer)]) if fewer else most, most


def _times(more: int) -> float:
    """Return the most factor by which so many further answers lengthen a decode step."""
    return min(MAX_STEPS, 1 + FURTHER * max(0, more))


def _mixed(old: float, new: float, weight: float) -> float:
    return (1 - weight) * old + weight * new
