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
"""What another answer adds to a decode step at most, as a share of it; and all together MAX_STEPS - 1 of it."""
QUICK = 0.25
"""How much one step counts for what a token takes."""
SLOW, SURE = 0.2, 0.5
"""How much a decode step counts that took longer than those before it, and one that did not."""


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
            known = self._decode_s.get(answers) or min(took_s, most_s or took_s)
            # A hiccup only lengthens, and makes no long chunks: what was faster is believed sooner.
            self._decode_s[answers] = _mixed(known, min(took_s, 2 * known), SLOW if took_s > known else SURE)
            self._carry(answers)
        elif not self._decode_s:
            pass
        elif answers and answers not in self._decode_s and read <= max(UNIT, answers):  # few enough to be reckoned out
            decode_s = min(most_s, max(least_s, took_s - read * self._token_s))
            self._decode_s[answers] = (least_s + decode_s) / 2  # half: it may have been the tokens
        elif 2 * read >= self.chunk(max(1, answers)):  # what disturbs the rest of a prompt would be its tokens' cost
            self._learn_token(read, took_s - most_s, took_s - least_s)

    def _learn_token(self, read: int, least_s: float, most_s: float) -> None:
        """So many tokens took at least and at most so long."""
        # Cheaper ones would make no larger chunks, and take long to unlearn.
        floor = (MAX_STEPS - 1) * min(self._decode_s.values()) / self._largest
        dearest = max(floor, most_s / read)
        known = self._token_s or dearest
        token_s = min(dearest, max(least_s / read, known))
        # No single moment makes a chunk less than half of what it was.
        self._token_s = min(2 * known, _mixed(known, token_s, QUICK))

    def _carry(self, answers: int) -> None:
        """Other numbers of answers grow slower with this one: on a machine that got slower they would hold it down."""
        now = self._decode_s[answers]
        for known, took in self._decode_s.items():
            least = now / _times(answers - known)
            if took < least:
                self._decode_s[known] = _mixed(took, least, SLOW)

    def _bounds_s(self, answers: int) -> tuple[float, float]:
        """What a decode step with so many answers takes at least and at most, by what is known of any number.

        It takes no longer than with more answers, nor much longer than with fewer.
        """
        if not answers or not self._decode_s:
            return 0.0, 0.0
        most = min(took * _times(answers - known) for known, took in self._decode_s.items())
        fewer = [known for known in self._decode_s if known <= answers]
        return min(most, self._decode_s[max(fewer)]) if fewer else most, most


def _times(more: int) -> float:
    """How many times as long a decode step may take at most with so many answers more."""
    return min(MAX_STEPS, 1 + FURTHER * max(0, more))


def _mixed(old: float, new: float, weight: float) -> float:
    return (1 - weight) * old + weight * new
