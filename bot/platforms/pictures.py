"""Reads the pictures of a message: re-encodes each in a child process with limits of bytes, pixels, time and memory.

What is kept is a PNG or JPEG that Pillow wrote: scaled down, turned as the file says, without metadata (places, names,
comments) and without other frames. A file that cannot be read gets a sentence.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from bot.types.display_names import as_code
from bot.types.messages import Picture

MAX_PER_MESSAGE = 4
"""Most pictures of a message."""
MAX_PICTURE_BYTES = 10_000_000
"""Most bytes of a picture's file."""
AT_ONCE = 2
"""Pictures that one reader downloads and decodes at the same time, for the memory that they take."""
MAX_PIXELS = 40_000_000
"""Most pixels of a file, checked in its header, before it is decoded."""
MAX_ASPECT = 50
"""Most times that a picture may be longer than it is wide: processors of models refuse stripes."""
SIDE = 1568
"""Longest side of what is kept, in pixels; models scale larger ones down themselves."""
MAX_ENCODED = 1_000_000
"""Most bytes of what is kept."""
WAIT_S = 20.0
"""Longest wait for one of the AT_ONCE places."""
SECONDS = 10
"""Time limit of a child; a photo takes half a second."""
MEMORY_MB = 1024
"""Address space limit of a child: several copies of MAX_PIXELS pixels."""
CHILD = Path(__file__).with_name("picture_process.py")

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))
_ENVIRONMENT = ("SYSTEMROOT", "LD_LIBRARY_PATH")
"""Variables that the child gets: no tokens."""
_MAX_HEADER = 100
"""Most bytes of the child's line."""
_REASONS = {
    "unknown": "is not a PNG, JPEG, WebP or GIF picture",
    "pixels": f"has more than the {MAX_PIXELS // 1_000_000} million pixels that I look at",
    "shape": f"is more than {MAX_ASPECT} times as long as it is wide",
    "damaged": "is damaged",
}

Fetch = Callable[[], Awaitable[bytes | str]]
"""Downloads a file; returns a sentence if that fails."""


def is_picture(name: str, kind: str) -> bool:
    """Whether a file is to be read as a picture. `kind`: its media type, '' if it is not known."""
    if kind in ("", "application/octet-stream"):
        return name.lower().endswith(_ENDINGS)
    return kind.startswith("image/") and "svg" not in kind


def picture_refusal(name: str, size: int) -> str:
    """Reason to skip a picture before its download, or ''. `size`: bytes."""
    if size > MAX_PICTURE_BYTES:
        most = MAX_PICTURE_BYTES // 1_000_000
        return f"{as_code(name)} is larger than the {most} MB of a picture that I look at, so I left it out."
    return ""


class PictureReader:
    """Downloads and re-encodes pictures, AT_ONCE at a time. Belongs to one event loop."""

    def __init__(self, seconds: int = SECONDS, memory_mb: int = MEMORY_MB) -> None:
        self._seconds, self._memory_mb = seconds, memory_mb
        self._places = asyncio.Semaphore(AT_ONCE)

    async def read(self, name: str, fetch: Fetch) -> Picture | str:
        """Return the picture, or a sentence why it is left out."""
        try:
            async with asyncio.timeout(WAIT_S):
                await self._places.acquire()
        except TimeoutError:
            return f"{as_code(name)} could not be read in time, so I left it out."
        try:
            data = await fetch()
            if isinstance(data, str):
                return data
            if skipped := picture_refusal(name, len(data)):
                return skipped
            answer = await self._reencode(data)
        finally:
            self._places.release()
        picture = _picture(name, answer)
        return picture or f"{as_code(name)} {_REASONS[_reason(answer)]}, so I left it out."

    async def _reencode(self, data: bytes) -> bytes:
        """The child's output; b'' if it exceeded a limit or crashed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(CHILD),
            *map(str, (self._seconds, self._memory_mb, MAX_PIXELS, MAX_ASPECT, SIDE, MAX_ENCODED)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={
                name: os.environ[name] for name in ("SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ
            },  # no tokens
        )
        try:
            async with asyncio.timeout(self._seconds):
                output, _ = await process.communicate(data)
            return output if process.returncode == 0 else b""
        except TimeoutError:
            return b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def _header(answer: bytes) -> dict[str, object]:
    try:
        header = json.loads(answer[:_MAX_HEADER].partition(b"\n")[0])
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


def _reason(answer: bytes) -> str:
    reason = _header(answer).get("refused")
    return reason if isinstance(reason, str) and reason in _REASONS else "damaged"


def _picture(name: str, answer: bytes) -> Picture | None:
    """The picture in a child's answer, which a hostile file may have written; None if there is none."""
    header, data = _header(answer), answer.partition(b"\n")[2]
    kind = next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), "")
    width, height = header.get("width"), header.get("height")
    if not kind or len(data) > MAX_ENCODED or not (isinstance(width, int) and isinstance(height, int)):
        return None
    if not (0 < width <= SIDE and 0 < height <= SIDE):
        return None
    return Picture(name, kind, data, width, height)
