"""Runs `inhouse init` in a pseudo-terminal whose screen a test can read, while fakes serve on the test's event loop."""

import asyncio
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl

import pyte

PATIENCE_S = 250
WIDTH, HEIGHT = 80, 40


class SetupWindow:
    """A terminal of WIDTH x HEIGHT cells that runs `inhouse init`. `text`: everything on it, with the scrollback."""

    def __init__(self, process: int, terminal: int) -> None:
        self._process, self._terminal = process, terminal
        self._screen = pyte.HistoryScreen(WIDTH, HEIGHT, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        self.written = b""
        self._answered = ""  # the text when the last question was answered
        os.set_blocking(terminal, False)

    @property
    def text(self) -> str:
        gone = ["".join(line[column].data for column in range(WIDTH)) for line in self._screen.history.top]
        return "\n".join(line.rstrip() for line in [*gone, *self._screen.display]).rstrip()

    async def asks(self, *words: str) -> str:
        """Wait until a new question ends the screen, with all these words in its last lines, whatever the wrapping."""
        return await self._read(words, lambda: self._asked(words))

    async def shows(self, words: str) -> str:
        """Wait until these words are on the screen."""
        return await self._read((words,), lambda: words in self.text)

    def type(self, line: str) -> None:
        self._answered = self.text
        os.write(self._terminal, f"{line}\r".encode())

    def press(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    async def ends(self) -> int:
        """Wait for the end; the exit status."""
        await self._read((), None)
        _, status = await asyncio.to_thread(os.waitpid, self._process, 0)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
        os.close(self._terminal)

    async def _read(self, words: tuple[str, ...], holds: Callable[[], bool] | None) -> str:
        """Read until `holds`, or to the end. words: what is waited for."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while holds is None or not holds():
                    try:
                        read = os.read(self._terminal, 65536)
                    except BlockingIOError:
                        await asyncio.sleep(0.02)
                        continue
                    except OSError:  # Linux signals the end of a pty's other side with an OSError
                        read = b""
                    if not read:
                        assert holds is None, f"it ended before it asked for {words}:\n{self.text}"
                        break
                    self.written += read
                    self._stream.feed(read)
        except TimeoutError:
            raise AssertionError(f"waited in vain for {words}:\n{self.text}") from None
        return self.text

    def _asked(self, words: tuple[str, ...]) -> bool:
        last = " ".join(self.text.split()[-60:])
        return self.text != self._answered and self.text.endswith(":") and all(word in last for word in words)


@contextmanager
def setup_window(*words: str) -> Iterator[SetupWindow]:
    """Run `inhouse init` with these arguments in the working directory."""
    command = [sys.executable, "-m", "bot.cli", "init", *words]
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, command)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    window = SetupWindow(process, terminal)
    try:
        yield window
    finally:
        window.kill()
