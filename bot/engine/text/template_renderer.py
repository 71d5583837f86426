"""Renders a model's chat template in a child process, so that no template can hang the engine or exhaust its memory.

One child serves all models. It starts with the first request, and again after a template exceeded a limit or crashed
it. Calls block; any thread may make them.
"""

import atexit
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock, Timer
from time import monotonic
from typing import NamedTuple

SECONDS = 5.0
"""Time limit of a rendering; ordinary ones take less than a millisecond."""
GRACE_S = 1.0
"""Extra time after which the child is killed, if it did not end itself."""
START_S = 30.0
"""Time limit of the child's start, which takes 0.1 s."""
MEMORY_MB = 512
"""Address space limit of the child, which takes 70 MB itself."""
OUTPUT_CHARS, OUTPUT_CHARS_A_MESSAGE = 64 * 1024, 256
"""Most characters that a template may write besides the contents: a base, and for each message."""

ESCAPED_BYTES = 12
"""Most bytes of one character in an answer: two JSON escapes."""
ANSWER_BYTES = 4096
"""Most bytes of an answer besides its text."""

CHILD = Path(__file__).with_name("template_process.py")


class TemplateRefused(Exception):
    """The template failed; the text says why."""


class TemplateExceeded(Exception):
    """The template exceeded a limit; the text continues 'The chat template of X'."""


class Rendered(NamedTuple):
    """A rendered template. timed: the text depends on the time of day."""

    text: str
    timed: bool


class TemplateRenderer:
    """Renders templates within limits of time, memory and output."""

    def __init__(self, seconds: float = SECONDS, memory_mb: int = MEMORY_MB) -> None:
        self._seconds, self._memory_mb = seconds, memory_mb
        self._lock = Lock()
        self._child: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    @property
    def pid(self) -> int | None:
        """The child's process id, or None when it is not running."""
        return self._child.pid if self._child is not None else None

    def render(
        self, template: str, messages: Sequence[Mapping[str, object]], variables: Mapping[str, object]
    ) -> Rendered:
        """Render `template` with `messages`. Raises TemplateRefused or TemplateExceeded."""
        contents = len(json.dumps(messages))
        limit = OUTPUT_CHARS + OUTPUT_CHARS_A_MESSAGE * len(messages) + contents
        request = {"template": template, "limit": limit, "variables": {"messages": messages, **variables}}
        answer = json.loads(self._ask(json.dumps(request).encode() + b"\n", ANSWER_BYTES + ESCAPED_BYTES * limit))
        if "refused" in answer:
            raise TemplateRefused(answer["refused"])
        if answer.get("exceeded") == "output":
            raise TemplateExceeded(f"writes more than {OUTPUT_CHARS // 1024} kB besides the messages")
        if answer.get("exceeded") == "memory":
            raise TemplateExceeded(f"takes more than {self._memory_mb} MB of memory")
        return Rendered(answer["text"], answer["timed"])

    def close(self) -> None:
        """Kill the child; the next request starts another one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _ask(self, request: bytes, most: int) -> bytes:
        """Return the child's answer, a line of at most `most` bytes. Raises TemplateExceeded."""
        with self._lock:
            for _ in range(2):  # retries once: the child may have died while idle
                child = self._child or self._start()
                began = monotonic()
                line = self._exchange(child, request, most)
                if line.endswith(b"\n"):
                    return line
                self.close()
                if len(line) >= most:
                    raise TemplateExceeded(f"writes more than {most // 1024:,} kB")
                if monotonic() - began >= self._seconds:
                    raise TemplateExceeded(f"takes longer than {self._seconds:g} s")
        raise TemplateExceeded("ends the process that renders it")

    def _exchange(self, child: subprocess.Popen[bytes], request: bytes, most: int) -> bytes:
        """Return the child's answer. Without a line end it is not whole: the child ended, or wrote more than `most`."""
        assert child.stdin is not None
        with _deadline(child, self._seconds + GRACE_S):
            try:
                child.stdin.write(request)
                child.stdin.flush()
            except OSError:
                return b""
            return _line(child, most)

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            self._child = subprocess.Popen(
                (sys.executable, "-P", str(CHILD), str(self._seconds), str(self._memory_mb)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except OSError as error:  # no memory, or too many processes or open files
            raise TemplateExceeded(f"cannot be rendered ({error.strerror or error})") from error
        with _deadline(self._child, START_S):
            _line(self._child, ANSWER_BYTES)  # the ready line: startup does not count as rendering time
        return self._child


@contextlib.contextmanager
def _deadline(child: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Kill the child unless the block ends within `seconds`."""
    timer = Timer(seconds, child.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _line(child: subprocess.Popen[bytes], most: int) -> bytes:
    """Read a line of at most `most` bytes; what there is of it if the child ends, or if it is longer."""
    assert child.stdout is not None
    try:
        return child.stdout.readline(most)
    except OSError:
        return b""


SHARED = TemplateRenderer()
"""The renderer that all models of this process share."""
