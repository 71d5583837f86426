"""How long a step of a batch may last: the number of prompt tokens that go into one, learned from the steps themselves.

A prefill chunk is cut to what lasts MAX_STEPS decode steps at the measured speed, so that nobody who is being answered
waits much longer than that for the next word. It runs on the batch's own thread.
"""

from time import perf_counter

MAX_STEPS = 3
"""The longest step while somebody is being answered; the promise is 5, and one in a hundred takes half as long more."""
ALONE = 4
"""Times as many tokens while nobody is."""
UNIT = 8
"""Chunks are multiples of it, and at least one."""


class Pace:
    """How many prompt tokens one step may take: `first` at first, then by how long the steps themselves took.

    A step that took too long makes the next one shorter in proportion; one with time to spare makes it a little longer.
    """

    def __init__(self, first: int, largest: int) -> None:
        self.chunk = first
        self._largest = largest
        self._decode_s: dict[int, float] = {}  # by how many answers a step went on with
        self._began = 0.0
        self._read = 0
        self._answers = 0

    @property
    def alone(self) -> int:
        """As `chunk`, while nobody is being answered."""
        return min(self._largest, ALONE * self.chunk)

    def begin(self, read: int, answers: int) -> None:
        """A step over `read` tokens of prompts beside so many answers starts now."""
        self._began, self._read, self._answers = perf_counter(), read, answers

    def end(self) -> None:
        """The step is over: learn from it."""
        self.learn(self._read, self._answers, perf_counter() - self._began)

    def learn(self, read: int, answers: int, took_s: float) -> None:
        """A step over `read` tokens of prompts beside so many answers that are being written took so long."""
        # A few tokens beside many answers cost little; else, while there always are prompts, nobody would ever learn
        # what a step takes with so many answers.
        if answers and read <= min(UNIT, answers // 2):
            self._decode_s[answers] = 0.8 * self._decode_s.get(answers, took_s) + 0.2 * took_s
        if not read or not self._decode_s or (not answers and read < self.chunk):
            return
        fewer = (known for known in self._decode_s if known <= max(1, answers))
        decode_s = self._decode_s[max(fewer, default=min(self._decode_s))]
        if not answers:  # what a chunk of it would have taken beside an answer
            read, took_s = self.chunk, took_s * self.chunk / read + decode_s
        allowed = MAX_STEPS * decode_s
        if took_s > allowed and 2 * read >= self.chunk - UNIT:  # less is a prompt's rest, and no chunk
            self._set(int(min(self.chunk, read) * max(0.5, allowed / took_s)))
        elif took_s < 0.9 * allowed and read >= self.chunk:
            self._set(self.chunk + max(UNIT, self.chunk // 4))

    def _set(self, tokens: int) -> None:
        self.chunk = max(UNIT, min(self._largest, tokens // UNIT * UNIT))
