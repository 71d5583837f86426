"""The console without a terminal: questions from --once or a pipe, answers to stdout, errors to stderr.

Writes each line of an answer when it is complete, so that `| head -1` gets its line and ends the program.
"""

import asyncio
import contextlib
import os
import select
from collections.abc import Callable, Sequence
from threading import Thread
from typing import BinaryIO, TextIO

from adapters.console.screen import printable
from bot.platforms.adapter import Core
from bot.types.messages import Attachment, FinishReason, Notice, Reply

POLL_S = 0.2
"""Interval for checking whether stdout still has a reader while nothing is written."""


class OneLine:
    """Input with exactly one question."""

    def __init__(self, question: str) -> None:
        self._question: str | None = question

    async def ask(self, core: Core) -> str | None:
        """Return the question on the first call, then None."""
        question, self._question = self._question, None
        return question

    async def confirm(self, question: str) -> bool:
        """Return False: the input is not interactive."""
        return False

    def clear_history(self) -> None:
        """No-op: there is no history."""


class PipedLines:
    """Reads one question per line. `stream` must be unbuffered, so that the reader holds no lock at exit."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    async def ask(self, core: Core) -> str | None:
        """Read the next line on a daemon thread, so that a silent pipe does not block the exit."""
        loop = asyncio.get_running_loop()
        line: asyncio.Future[bytes] = loop.create_future()

        def deliver(raw: bytes) -> None:
            if not line.done():
                line.set_result(raw)

        def read() -> None:
            raw = self._stream.readline()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(deliver, raw)

        Thread(target=read, daemon=True).start()
        raw = await line
        return raw.decode("utf-8", errors="replace") if raw else None

    async def confirm(self, question: str) -> bool:
        """Return False: the input is not interactive."""
        return False

    def clear_history(self) -> None:
        """No-op: there is no history."""


class PlainScreen:
    """Writes answers to `out` and errors to `err`."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._reply_id, self._written = "", ""  # the current reply and its written text
        self._closed = asyncio.Event()

    async def wait_closed(self) -> None:
        """Return when `out` has no reader any more, as after `head` exits."""
        try:
            descriptor = self._out.fileno()
        except OSError:  # not a file, as in tests
            descriptor = -1
        if hasattr(select, "poll") and descriptor >= 0:
            poll = select.poll()
            poll.register(descriptor, 0)  # poll always reports errors and hang-ups
            while not self._closed.is_set() and not poll.poll(0):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closed.wait(), POLL_S)
        else:
            await self._closed.wait()
        self._discard()

    def conversation(self) -> contextlib.AbstractContextManager[object]:
        """Change nothing."""
        return contextlib.nullcontext()

    def answering(self, interrupted: Callable[[], None]) -> contextlib.AbstractContextManager[object]:
        """No-op: Ctrl-C ends the program, as usual in a pipe."""
        return contextlib.nullcontext()

    def waiting(self, text: str) -> None:
        """No-op: the output is not interactive."""

    def show(self, reply: Reply) -> None:
        """Write the complete lines of an answer; when it is final, the last line and any error too."""
        text, error = printable(reply.committed + (reply.tail if reply.final else "")).lstrip("\n"), ""
        if reply.final and reply.finish_reason is FinishReason.ERROR:
            text, _, error = text.rpartition("\n\n")
        if reply.reply_id != self._reply_id or not text.startswith(self._written):  # restarted after a failure
            self._reply_id, self._written = reply.reply_id, ""
        text = f"{text.rstrip()}\n" if reply.final and text.strip() else text[: text.rfind("\n") + 1]
        self._write(self._out, text[len(self._written) :])
        self._written = text
        if error:
            self._line(self._err, error)

    def notice(self, notice: Notice) -> None:
        """Write the response to a command to stdout."""
        self._line(self._out, notice.text)

    def help(self, commands: Sequence[tuple[str, str]]) -> None:
        """Write the commands in two columns."""
        width = max(len(usage) for usage, _ in commands)
        self._line(self._out, "\n".join(f"{usage:<{width}}  {description}" for usage, description in commands))

    def exists(self, file: Attachment) -> bool:
        """Return False: files are written to stdout."""
        return False

    def save(self, file: Attachment, *, replace: bool) -> None:
        """Write the file to stdout, after the notice that came with it."""
        self._line(self._out, file.text)

    def problem(self, text: str) -> None:
        """Write one sentence to stderr."""
        self._line(self._err, text)

    def _line(self, file: TextIO, text: str) -> None:
        stripped = printable(text).strip("\n")
        self._write(file, f"{stripped}\n")

    def _write(self, file: TextIO, text: str) -> None:
        try:
            file.write(text)
            file.flush()
        except BrokenPipeError:
            self._closed.set()

    def _discard(self) -> None:
        """Redirect stdout to /dev/null, so that Python's flush at exit does not fail."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
