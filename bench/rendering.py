"""`python -m bench.rendering`: times each text function on hostile texts of 1k, 16k and 256k characters.

Prints the slowest text for each length, in milliseconds of CPU time; stops calls after 10 s. Functions and texts are
those of the growth test (tests/support/builders/hostile_text.py).
"""

import platform
import signal
import time
from collections.abc import Callable
from types import FrameType

from tests.support.builders.hostile_text import FUNCTIONS, SHAPES, TEXTS

SIZES = (1_000, 16_000, 256_000)
MOST_S = 10.0
KEPT = 10
"""Number of slowest texts of a size that are tried at the next size."""


class _TooSlow(Exception):
    pass


def _stop(_: int, __: FrameType | None) -> None:
    raise _TooSlow


def seconds(call: Callable[[str], object], text: str) -> float:
    """CPU seconds of a call; infinite if it was stopped."""
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_S)
    began = time.process_time()
    try:
        call(text)
        return time.process_time() - began
    except _TooSlow:
        return float("inf")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def slowest(call: Callable[[str], object]) -> list[float]:
    """The longest time in seconds for each of SIZES."""
    labels, found = list(TEXTS), []
    for size in SIZES:
        taken = {label: seconds(call, TEXTS[label](size)) for label in labels}
        found.append(max(taken.values()))
        labels = [*dict.fromkeys([*sorted(taken, key=lambda label: -taken[label])[:KEPT], *SHAPES])]
    return found


def main() -> None:
    """Measures and prints."""
    signal.signal(signal.SIGVTALRM, _stop)
    print(f"{platform.machine()}, Python {platform.python_version()}; milliseconds, the slowest of {len(TEXTS)} texts")
    print("| function | 1k | 16k | 256k |\n| --- | ---: | ---: | ---: |")
    for name, call in FUNCTIONS.items():
        shown = ("> 10 s" if taken > MOST_S else f"{taken * 1000:.0f}" for taken in slowest(call))
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
