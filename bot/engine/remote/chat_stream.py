"""Reads the server-sent events of one streamed completion of a chat or of token ids.

A small reader of our own: it keeps the fields that servers add to OpenAI's, and its errors are sentences.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 4_000_000
"""Longest line of a stream; a longer one is an error."""
END_S = 0.1
"""Seconds that the end of the response may take after [DONE]."""

Json = Mapping[str, Any]  # Any: values of JSON


class BadStream(Exception):
    """A server sent something else than a stream of chunks, or an error within it. The text is for people."""


class ReportedError(BadStream):
    """A server reported an error within a stream."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event. `finish_reason`: as the server names it, '' before the end. `usage`: token counts, if it has them."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    usage: Json = field(default_factory=dict)


async def read_chunks(content: AsyncIterator[bytes]) -> AsyncIterator[Chunk]:
    """Yield the chunks of a stream until [DONE] or its end. Raises BadStream.

    content: pieces of the body, split anywhere.
    """
    async for line in _lines(content):
        if not line.startswith(b"data:"):
            continue  # comments keep the connection alive; other fields are not used
        data = line[5:].strip()
        if data == b"[DONE]":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):  # a connection can be used again once its response has ended
                    await anext(content, None)
            return
        if data:
            yield _chunk(data)


async def _lines(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    parts: list[bytes] = []
    size = 0
    async for piece in content:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield b"".join((*parts, end)).rstrip(b"\r")
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > MOST_BYTES:
            raise BadStream(f"it sent a line of more than {MOST_BYTES:,} bytes")
    if size:
        yield b"".join(parts).rstrip(b"\r")


def _chunk(data: bytes) -> Chunk:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadStream("it sent a chunk that is not JSON") from error
    if not isinstance(event, dict):
        raise BadStream("it sent a chunk that is not an object")
    if (problem := error_text(event)) is not None:
        raise ReportedError(problem)
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta = choice.get("delta")
    delta = delta if isinstance(delta, dict) else {}
    usage = event.get("usage")
    return Chunk(
        text=_text(delta.get("content")) or _text(choice.get("text")),
        reasoning=_text(delta.get("reasoning")) or _text(delta.get("reasoning_content")),
        finish_reason=_text(choice.get("finish_reason")),
        usage=usage if isinstance(usage, dict) else {},
    )


def error_text(body: Json) -> str | None:
    """The message of an error in any server's form; None if `body` is none."""
    error = body.get("error", body if body.get("object") == "error" else None)
    if isinstance(error, dict):
        return _text(error.get("message")) or "it reported an error without a message"
    if error:
        return _text(error) or "it reported an error"
    detail = body.get("detail")
    return _text(detail) or (json.dumps(detail) if detail else None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
