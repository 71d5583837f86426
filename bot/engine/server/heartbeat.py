"""Sends a heartbeat to the service while the engine makes progress or is idle.

Tracks activities (answers, prompts, a load). Each has a busy flag and a state that changes with progress, such as a
count of decoder layers, so that a model which needs minutes per token still counts as alive. The heartbeat is skipped
while a busy activity's state has not changed since the last check: a kernel that never returns, a deadlock, a disk that
does not answer. The service replaces a process without a heartbeat (HUNG_S in bot.engine.client.process).
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import psutil

BEAT_S = 2.0


@dataclass(slots=True)
class _Activity:
    """A tracked activity. `busy` and `state` run on the heartbeat thread; `was_busy` and `seen` hold last results."""

    busy: Callable[[], bool]
    state: Callable[[], object]
    seen: object = None
    was_busy: bool = False

    def advances(self) -> bool:
        """Return False if it was busy at this check and the last one and its state did not change."""
        busy, state = self.busy(), self.state()
        stands = busy and self.was_busy and state == self.seen
        self.was_busy, self.seen = busy, state
        return not stands


class Heartbeat:
    """Heartbeat thread and step counter. `busy`: whether answers are generated; called on the heartbeat thread."""

    def __init__(self, beat: Callable[[], None], busy: Callable[[], bool], every_s: float = BEAT_S) -> None:
        self._beat, self._every_s = beat, every_s
        self.steps = 0
        self._activities: list[_Activity] = []
        self.watch(busy, lambda: self.steps)

    def step(self, *_: object) -> None:
        """Count the start of a decoder layer; cheap enough for a hook on every layer."""
        self.steps += 1

    def watch(self, busy: Callable[[], bool], state: Callable[[], object]) -> None:
        """Track another activity. Call before `start`."""
        self._activities.append(_Activity(busy, state))

    def start(self) -> None:
        """Start the heartbeat thread, which runs until the process ends."""
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def tick(self) -> None:
        """Send a heartbeat unless an activity is stalled."""
        advances = [activity.advances() for activity in self._activities]  # a list: each must record its state
        if all(advances):
            self._beat()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._every_s):
            self.tick()


def reading() -> object:
    """Return a value that changes while this process reads from disk or fills memory (with every megabyte)."""
    if sys.platform == "win32":
        process = psutil.Process()
        return process.io_counters().read_bytes, process.memory_info().num_page_faults >> 8
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_inblock, used.ru_majflt, used.ru_minflt >> 8
