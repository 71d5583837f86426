"""The console without a person: questions from --once or a pipe, answers alone on stdout, all else on stderr.

Nothing moves here, so an answer is written once, when it is complete. An answer that is an error goes to stderr.
"""

import asyncio
import contextlib
from collections.abc import Callable
from threading import Thread
from typing import BinaryIO, TextIO

from adapters.console.text import printable
from bot.adapter import Core
from bot.messages import FinishReason, Notice, Reply


class OneLine:
    """One question, and that is all."""

    def __init__(self, question: str) -> None:
        self._question: str | None = question

    async def ask(self, core: Core) -> str | None:
        """The question the first time, then None."""
        question, self._question = self._question, None
        return question

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

    def forget(self) -> None:
        """Nothing is kept here."""


class PlainScreen:
    """Answers to `out`, problems to `err`."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err

    def answering(self, interrupted: Callable[[], None]) -> contextlib.AbstractContextManager[object]:
        """Ctrl-C is left alone: it ends the program, as it does every other program in a pipe."""
        return contextlib.nullcontext()

    def waiting(self, text: str) -> None:
        """Nobody is watching."""

    def show(self, reply: Reply) -> None:
        """Write a complete answer, and nothing before it is complete."""
        if reply.final:
            text = reply.committed + reply.tail
            self._write(self._err if reply.finish_reason is FinishReason.ERROR else self._out, text)

    def notice(self, notice: Notice) -> None:
        """The answer to a command is an answer; its file is written out after it."""
        self._write(self._out, notice.text)
        if notice.attachment:
            self._write(self._out, notice.attachment.text)

    def problem(self, text: str) -> None:
        """One sentence."""
        self._write(self._err, text)

    @staticmethod
    def _write(file: TextIO, text: str) -> None:
        print(printable(text).strip("\n"), file=file, flush=True)
