"""The terminal itself, for the time in which an answer is awaited: what Ctrl-C does, and no echo of other keys."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

if sys.platform != "win32":
    import termios


@contextmanager
def ctrl_c(interrupted: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `interrupted` on the running event loop."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(interrupted)

    before = signal.signal(signal.SIGINT, on_signal)  # unlike loop.add_signal_handler, Windows has it too
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def no_echo() -> Iterator[None]:
    """Keys pressed now do not appear in the middle of the answer; the next prompt gets them."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
