"""Terminal mode while an answer is pending: Ctrl-C stops the answer, other keys are kept, unechoed, for the prompt."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from prompt_toolkit.input import create_input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.keys import Keys

if sys.platform != "win32":
    import termios


@contextmanager
def interrupts(interrupted: Callable[[], None]) -> Iterator[None]:
    """Call `interrupted` on the running event loop at SIGINT."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(interrupted)

    before = signal.signal(signal.SIGINT, on_signal)  # Windows does not support loop.add_signal_handler
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def keys(interrupted: Callable[[], None]) -> Iterator[None]:
    """Call `interrupted` on the running event loop at Ctrl-C; keep other keys for the next prompt.

    Reads Ctrl-C as a key: as a signal it would also reach `make`, and `make run` would report an error.
    """
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    source = create_input(sys.stdin)

    def pressed() -> None:
        typed = source.read_keys()
        if any(key.key == Keys.ControlC for key in typed):
            interrupted()
        store_typeahead(source, [key for key in typed if key.key != Keys.ControlC])

    changed = termios.tcgetattr(descriptor)
    changed[3] &= ~(termios.ECHO | termios.ICANON)
    changed[6][termios.VINTR] = bytes([os.fpathconf(descriptor, "PC_VDISABLE") & 0xFF])
    changed[6][termios.VMIN], changed[6][termios.VTIME] = b"\x01", b"\x00"
    termios.tcsetattr(descriptor, termios.TCSANOW, changed)
    try:
        with source.attach(pressed):
            yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
