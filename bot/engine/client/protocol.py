"""The messages between the service and the engine's process, and how they travel.

A frame is its length in 4 bytes (big endian) and then msgpack. Decoding checks every field's type, so that what arrives
is what the types here say or an error. Each side says VERSION in its first message and refuses another one.
"""

import socket

import msgspec

from bot.types.engine import EngineRequest, EngineStats, LoadedModel, LoadProgress, ModelSource
from bot.types.messages import FinishReason, Usage

VERSION = 4
PORT_VARIABLE = "INHOUSE_ENGINE_PORT"
SECRET_VARIABLE = "INHOUSE_ENGINE_SECRET"
MAX_FRAME = 64 * 1024 * 1024
HEADER = 4


class Message(msgspec.Struct, frozen=True, tag=True):
    """What every message is: immutable, and named on the wire."""


class Hello(Message, frozen=True):
    """The child's first message: proof that it is the process that was started, and what it speaks."""

    secret: str
    version: int


class Load(Message, frozen=True):
    """Make this the loaded model; answered by Progress and then Loaded or LoadFailed of the same number."""

    number: int
    source: ModelSource


class Generate(Message, frozen=True):
    """Start a generation; answered by Text under the same `stream` number, or Failed."""

    stream: int
    request: EngineRequest


class Abort(Message, frozen=True):
    """End a generation at the next step boundary; an unknown number is ignored."""

    stream: int


class AskStats(Message, frozen=True):
    """Answered by Stats."""


class Progress(Message, frozen=True):
    """How far the load has come."""

    number: int
    progress: LoadProgress


class Loaded(Message, frozen=True):
    """The load succeeded."""

    number: int
    model: LoadedModel


class LoadFailed(Message, frozen=True):
    """The load failed and no model is loaded; `reason` is for a person."""

    number: int
    reason: str


class Text(msgspec.Struct, frozen=True, array_like=True):
    """New text of one generation; the last one has a finish reason and usage."""

    stream: int
    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class Failed(msgspec.Struct, frozen=True, array_like=True):
    """One generation failed; `reason` is for a person."""

    stream: int
    reason: str


class Step(Message, frozen=True):
    """What the generations did since the last Step."""

    texts: list[Text]
    failed: list[Failed]


class Stats(Message, frozen=True):
    """The engine at this moment."""

    stats: EngineStats


class Beat(Message, frozen=True):
    """The process gets on with its work, or has none. grown: a sentence, if it takes more memory than it should."""

    grown: str = ""


ToChild = Load | Generate | Abort | AskStats
ToParent = Hello | Progress | Loaded | LoadFailed | Step | Stats | Beat

_encoder = msgspec.msgpack.Encoder()
_to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_to_parent: msgspec.msgpack.Decoder[ToParent] = msgspec.msgpack.Decoder(ToParent)


class ProtocolError(Exception):
    """A frame that is too long or is not a message."""


def frame(message: Message) -> bytes:
    """A message as it travels, length included. Raises ProtocolError if it is longer than MAX_FRAME bytes."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(body)} bytes is too long")
    return len(body).to_bytes(HEADER, "big") + body


def body_length(header: bytes) -> int:
    """The length that a frame's first HEADER bytes announce. Raises ProtocolError if it is over MAX_FRAME."""
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME:
        raise ProtocolError(f"a frame announces {length} bytes")
    return length


def read_by_child(body: bytes) -> ToChild:
    """The message in a frame that the parent sent. Raises ProtocolError."""
    try:
        return _to_child.decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error


def read_by_parent(body: bytes) -> ToParent:
    """The message in a frame that the child sent. Raises ProtocolError."""
    try:
        return _to_parent.decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error


def receive(connection: socket.socket) -> ToChild | None:
    """The next message on a blocking socket (the child's end); None when the connection ended. Raises ProtocolError."""
    header = _receive_exactly(connection, HEADER)
    body = _receive_exactly(connection, body_length(header)) if header else b""
    return read_by_child(body) if body else None


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    """`count` bytes, or nothing at all if the connection ends before."""
    parts: list[bytes] = []
    while count:
        try:
            part = connection.recv(min(count, 1 << 20))
        except OSError:
            return b""
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
