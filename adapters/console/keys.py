"""Keys pressed while no prompt is shown: Ctrl-C stops the answer, all others wait for the next prompt."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from prompt_toolkit.input import create_input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.keys import Keys

if sys.platform != "win32":
    import termios


@contextlib.contextmanager
def sigint_calls(interrupted: Callable[[], None]) -> Iterator[None]:
    """Call `interrupted` on the running event loop at SIGINT."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(interrupted)

    before = signal.signal(signal.SIGINT, on_signal)  # Windows does not support loop.add_signal_handler
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def keys_unprocessed() -> Iterator[None]:
    """Turn off the terminal's line mode, its echo and its interrupt key, from the first prompt to the last.

    In line mode the terminal drops a Ctrl-D that is pressed when no prompt reads. As a signal, Ctrl-C would also reach
    `make`, and `make run` would report an error.
    """
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    changed = termios.tcgetattr(descriptor)
    changed[3] &= ~(termios.ECHO | termios.ICANON)
    changed[6][termios.VINTR] = bytes([os.fpathconf(descriptor, "PC_VDISABLE") & 0xFF])
    changed[6][termios.VMIN], changed[6][termios.VTIME] = b"\x01", b"\x00"
    termios.tcsetattr(descriptor, termios.TCSANOW, changed)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


@contextlib.contextmanager
def intercepted_keys(interrupted: Callable[[], None]) -> Iterator[None]:
    """Call `interrupted` on the running event loop at Ctrl-C; keep other keys for the next prompt."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    source = create_input(sys.stdin)

    def pressed() -> None:
        typed = source.read_keys()
        if any(key.key == Keys.ControlC for key in typed):
            interrupted()
        store_typeahead(source, [key for key in typed if key.key != Keys.ControlC])

    with source.attach(pressed):
        yield
