"""Scripts faults of single requests to the fake OpenAI-compatible server.

`word` is the number of words that are sent before the fault; None: it happens instead of the response's status line.
All methods take `path` (default: chat completions), `question`, `times` and `skip` to choose the requests.
"""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypedDict, Unpack

CHAT = "/v1/chat/completions"


class Kind(StrEnum):
    """What happens to the request."""

    HANG = "hang"
    RESET = "reset"
    CLOSE = "close"
    EMPTY = "empty chunks"
    BAD_JSON = "bad JSON"
    STREAM_ERROR = "error within the stream"
    LONG_LINE = "long line"
    SPLIT = "split"
    STATUS = "status"
    REDIRECT = "redirect"
    HTML = "HTML"
    TOO_LONG = "too long"


class When(TypedDict, total=False):
    """Which requests a fault affects: the first `times` after `skip` ones; `question` None: any."""

    path: str
    question: str
    times: int
    skip: int


@dataclass(eq=False)
class WireFault:
    """One scripted fault. `size`: bytes of a long line, or where a split cuts each event (-1: inside a character)."""

    kind: Kind
    path: str = CHAT
    question: str | None = None
    times: int = 1
    skip: int = 0
    word: int | None = None
    status: int = 0
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    size: int = 0
    hits: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Lets hanging requests continue, and affects no further ones."""
        self.times = 0
        self.released.set()

    def meets(self, path: str, question: str) -> bool:
        """Whether the fault affects this request; counts it if so."""
        if path != self.path or self.question not in (None, question):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.hits >= self.times:
            return False
        self.hits += 1
        return True


class WireFaults:
    """All scripted faults, in order; a request meets at most one."""

    def __init__(self) -> None:
        self._faults: list[WireFault] = []

    def hang(self, *, word: int | None = 0, **when: Unpack[When]) -> WireFault:
        """Sends nothing more until `release()` or until the client closes."""
        return self._add(WireFault(Kind.HANG, word=word, **when))

    def reset(self, *, word: int | None = 0, **when: Unpack[When]) -> WireFault:
        """Resets the TCP connection, as when the server's process is killed."""
        return self._add(WireFault(Kind.RESET, word=word, **when))

    def empty_chunks(self, *, word: int = 0, **when: Unpack[When]) -> WireFault:
        """Sends chunks without text until `release()` or until the client closes."""
        return self._add(WireFault(Kind.EMPTY, word=word, **when))

    def close(self, *, word: int = 0, **when: Unpack[When]) -> WireFault:
        """Ends the response correctly, without finish_reason, usage and [DONE]."""
        return self._add(WireFault(Kind.CLOSE, word=word, **when))

    def bad_json(self, *, word: int = 0, **when: Unpack[When]) -> WireFault:
        """Sends a chunk that is no JSON, and continues."""
        return self._add(WireFault(Kind.BAD_JSON, word=word, **when))

    def stream_error(
        self, message: str = "CUDA error: out of memory", *, word: int = 0, **when: Unpack[When]
    ) -> WireFault:
        """Sends an error object in the server's form within the stream, and ends it."""
        return self._add(WireFault(Kind.STREAM_ERROR, word=word, message=message, **when))

    def long_line(self, size: int = 1 << 20, *, word: int = 0, **when: Unpack[When]) -> WireFault:
        """Adds an unknown field of `size` bytes to a word's chunk."""
        return self._add(WireFault(Kind.LONG_LINE, word=word, size=size, **when))

    def split(self, at: int = -1, **when: Unpack[When]) -> WireFault:
        """Sends every event in two TCP segments, cut after `at` bytes; -1: inside a character of several bytes."""
        return self._add(WireFault(Kind.SPLIT, size=at, **when))

    def status(self, status: int, message: str = "", *, retry_after: str = "", **when: Unpack[When]) -> WireFault:
        """Responds with an error in the server's form. retry_after: the header, seconds or a date; '' for none."""
        headers = {"Retry-After": retry_after} if retry_after else {}
        return self._add(WireFault(Kind.STATUS, status=status, message=message, headers=headers, **when))

    def redirect(self, to: str, *, status: int = 307, **when: Unpack[When]) -> WireFault:
        """Redirects to another address."""
        return self._add(WireFault(Kind.REDIRECT, status=status, headers={"Location": to}, **when))

    def html(self, status: int = 200, **when: Unpack[When]) -> WireFault:
        """Responds with a web page, as a proxy or a login page in between does."""
        return self._add(WireFault(Kind.HTML, status=status, **when))

    def too_long(self, **when: Unpack[When]) -> WireFault:
        """Refuses the prompt as longer than the window, whatever its length. Ollama never does."""
        return self._add(WireFault(Kind.TOO_LONG, **when))

    def find(self, path: str, question: str) -> WireFault | None:
        """The fault that affects this request, if any."""
        return next((fault for fault in self._faults if fault.meets(path, question)), None)

    def release_all(self) -> None:
        """Ends all faults, at the end of a test."""
        for fault in self._faults:
            fault.release()

    def _add(self, fault: WireFault) -> WireFault:
        self._faults.append(fault)
        return fault
