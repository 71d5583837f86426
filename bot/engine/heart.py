"""Whether the engine gets on with its work, told to the service every few seconds.

In: the steps of a model, down to every decoder layer, so that a model which takes minutes for a token still shows that
it works. Out: a beat, unless answers are owed and nothing has moved since the last one: a kernel that never returns,
a lock that nobody gives back. The service replaces a process that has not beaten for a while.
"""

import threading
from collections.abc import Callable

BEAT_S = 2.0


class Heart:
    """Counts steps and beats. `busy`: whether answers are owed; called on the heart's own thread."""

    def __init__(self, beat: Callable[[], None], busy: Callable[[], bool], every_s: float = BEAT_S) -> None:
        self._beat, self._busy, self._every_s = beat, busy, every_s
        self._steps = self._seen = 0
        self._was_busy = False

    def step(self, *_: object) -> None:
        """Something moved; cheap enough to be a hook of every layer."""
        self._steps += 1

    def start(self) -> None:
        """Beat from now on, until the process ends."""
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def tick(self) -> None:
        """Beat if there is reason to."""
        busy, steps = self._busy(), self._steps
        # Work that has only just begun may not have moved yet.
        if not busy or not self._was_busy or steps != self._seen:
            self._beat()
        self._was_busy, self._seen = busy, steps

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._every_s):
            self.tick()
