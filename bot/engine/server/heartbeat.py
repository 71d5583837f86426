"""Tells the service every few seconds that the engine gets on with its work.

Each activity (answers, prompts, a load) is watched: whether it is going on, and a state that changes while it advances,
such as a count of decoder layers, so that a model which takes minutes for a token still shows that it works. There is
no beat while an activity goes on whose state has not changed since the last look: a kernel that never returns, a lock
that nobody gives back, a disk that does not answer. The service replaces a process that has not beaten for a while.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import psutil

BEAT_S = 2.0


@dataclass(slots=True)
class _Activity:
    """busy and state are called on the heart's thread. seen: the state at the last look, if it was busy then."""

    busy: Callable[[], bool]
    state: Callable[[], object]
    seen: object = None
    was_busy: bool = False

    def advances(self) -> bool:
        """Whether it has moved since the last look, has only just begun, or is not going on."""
        busy, state = self.busy(), self.state()
        stands = busy and self.was_busy and state == self.seen
        self.was_busy, self.seen = busy, state
        return not stands


class Heart:
    """Counts steps and beats. `busy`: whether answers are owed; called on the heart's own thread."""

    def __init__(self, beat: Callable[[], None], busy: Callable[[], bool], every_s: float = BEAT_S) -> None:
        self._beat, self._every_s = beat, every_s
        self.steps = 0
        self._activities: list[_Activity] = []
        self.watch(busy, lambda: self.steps)

    def step(self, *_: object) -> None:
        """A decoder layer begins; cheap enough to be a hook of every layer."""
        self.steps += 1

    def watch(self, busy: Callable[[], bool], state: Callable[[], object]) -> None:
        """Let another activity hold back the beat; before `start`."""
        self._activities.append(_Activity(busy, state))

    def start(self) -> None:
        """Beat from now on, until the process ends."""
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def tick(self) -> None:
        """Beat if there is reason to."""
        advances = [activity.advances() for activity in self._activities]  # each is looked at
        if all(advances):
            self._beat()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._every_s):
            self.tick()


def reading() -> object:
    """What changes while this process reads from a disk, however slow, or fills memory, a megabyte at a time."""
    if sys.platform == "win32":
        process = psutil.Process()
        return process.io_counters().read_bytes, process.memory_info().num_page_faults >> 8
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_inblock, used.ru_majflt, used.ru_minflt >> 8
