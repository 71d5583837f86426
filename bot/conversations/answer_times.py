"""Estimates the seconds of a model's answer, from earlier ones and from how long it has run without finishing one."""

import time
from collections.abc import Callable

SMOOTHING = 0.3
"""Weight of the newest answer's time."""


class AnswerTimes:
    """The seconds of an answer by model."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._own: dict[str, float] = {}  # smoothed
        self._learned: dict[str, float] = {}  # the same of other hosts
        self._since: dict[str, float] = {}  # when an answer ended last, or the first since then began

    def of(self, model: str) -> float | None:
        """Smoothed answer time of a model on this host, None before its first answer."""
        return self._own.get(model)

    def estimates(self) -> dict[str, float]:
        """The estimate of each known model; at least as long as it has run without finishing an answer."""
        found = self._learned | self._own
        for model in found.keys() & self._since.keys():
            found[model] = max(found[model], self._clock() - self._since[model])
        return found

    def record(self, model: str, seconds: float) -> None:
        """Record the time of an answer."""
        self._own[model] = (1 - SMOOTHING) * self._own.get(model, seconds) + SMOOTHING * seconds

    def learn(self, model: str, seconds: float) -> None:
        """Note the answer time of another host, for a model of which none was measured here."""
        self._learned[model] = seconds

    def begun(self, model: str) -> None:
        """Note that the model runs, if it did not before."""
        self._since.setdefault(model, self._clock())

    def ended(self, model: str) -> None:
        """Restart the time without a finished answer."""
        self._since.pop(model, None)
