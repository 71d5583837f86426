"""The console without a terminal: questions from --once or a pipe, answers on stdout, errors on stderr.

An answer is written line by line, as its lines are complete, so that `| head -1` gets its line and ends the program.
"""

import asyncio
import contextlib
import os
import select
from collections.abc import Callable, Sequence
from threading import Thread
from typing import BinaryIO, TextIO

from adapters.console.printable_text import printable
from bot.platforms.adapter import Core
from bot.types.messages import Attachment, FinishReason, Notice, Reply

POLL_S = 0.2
"""How often to check whether stdout still has a reader: nothing is written for as long as a line takes."""


class OneLine:
    """One question, and that is all."""

    def __init__(self, question: str) -> None:
        self._question: str | None = question

    async def ask(self, core: Core) -> str | None:
        """The question the first time, then None."""
        question, self._question = self._question, None
        return question

    async def confirm(self, question: str) -> bool:
        """No: nobody is there to answer."""
        return False

    def forget(self) -> None:
        """Nothing is kept here."""


class PipedLines:
    """Each line of a stream is a question. `stream` is unbuffered: a reader must hold no lock when the program ends."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    async def ask(self, core: Core) -> str | None:
        """The next line, read in a thread that nobody waits for: a silent pipe must not keep us from ending."""
        loop = asyncio.get_running_loop()
        line: asyncio.Future[bytes] = loop.create_future()

        def deliver(raw: bytes) -> None:
            if not line.done():
                line.set_result(raw)

        def read() -> None:
            raw = self._stream.readline()
            with contextlib.suppress(RuntimeError):  # the loop is closed: the program has ended meanwhile
                loop.call_soon_threadsafe(deliver, raw)

        Thread(target=read, daemon=True).start()
        raw = await line
        return raw.decode("utf-8", errors="replace") if raw else None

    async def confirm(self, question: str) -> bool:
        """No: nobody is there to answer."""
        return False

    def forget(self) -> None:
        """Nothing is kept here."""


class PlainScreen:
    """Writes answers to `out` and errors to `err`."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._reply_id, self._written = "", ""  # the reply being written, and how much of it is
        self._gone = asyncio.Event()

    async def gone(self) -> None:
        """Return once nobody reads `out` any more, as when `head` has its lines."""
        try:
            descriptor = self._out.fileno()
        except OSError:  # not a file, as in tests
            descriptor = -1
        if hasattr(select, "poll") and descriptor >= 0:
            poll = select.poll()
            poll.register(descriptor, 0)  # errors and hang-ups are always reported
            while not self._gone.is_set() and not poll.poll(0):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), POLL_S)
        else:
            await self._gone.wait()
        self._discard()

    def answering(self, interrupted: Callable[[], None]) -> contextlib.AbstractContextManager[object]:
        """Ctrl-C is left alone: it ends the program, as it does every other program in a pipe."""
        return contextlib.nullcontext()

    def waiting(self, text: str) -> None:
        """Nobody is watching."""

    def show(self, reply: Reply) -> None:
        """Write the lines of an answer that are complete; the last one, and an error below it, when it is final."""
        text, error = printable(reply.committed + (reply.tail if reply.final else "")).lstrip("\n"), ""
        if reply.final and reply.finish_reason is FinishReason.ERROR:
            text, _, error = text.rpartition("\n\n")
        if reply.reply_id != self._reply_id or not text.startswith(self._written):  # it may begin anew, after a failure
            self._reply_id, self._written = reply.reply_id, ""
        text = f"{text.rstrip()}\n" if reply.final and text.strip() else text[: text.rfind("\n") + 1]
        self._write(self._out, text[len(self._written) :])
        self._written = text
        if error:
            self._line(self._err, error)

    def notice(self, notice: Notice) -> None:
        """Write the answer to a command like any answer."""
        self._line(self._out, notice.text)

    def help(self, commands: Sequence[tuple[str, str]]) -> None:
        """Write a line for each command, in two columns."""
        width = max(len(usage) for usage, _ in commands)
        self._line(self._out, "\n".join(f"{usage:<{width}}  {description}" for usage, description in commands))

    def exists(self, file: Attachment) -> bool:
        """False: files are written to stdout."""
        return False

    def save(self, file: Attachment, *, replace: bool) -> None:
        """Write the file to stdout, after the answer that came with it."""
        self._line(self._out, file.text)

    def problem(self, text: str) -> None:
        """One sentence."""
        self._line(self._err, text)

    def _line(self, file: TextIO, text: str) -> None:
        stripped = printable(text).strip("\n")
        self._write(file, f"{stripped}\n")

    def _write(self, file: TextIO, text: str) -> None:
        try:
            file.write(text)
            file.flush()
        except BrokenPipeError:
            self._gone.set()

    def _discard(self) -> None:
        """Send what is still buffered to nowhere, so that Python does not fail to flush it when it exits."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
