"""Defines the messages between the service and the engine process, and their framing.

A frame is a 4-byte big-endian length followed by msgpack. Decoding checks the type of every field. The child sends
VERSION in its first message; the parent refuses any other version.
"""

import socket

import msgspec

from bot.types.engine import EngineRequest, EngineStats, LoadedModel, LoadProgress, ModelSource
from bot.types.messages import FinishReason, Usage

VERSION = 5
PORT_VARIABLE = "INHOUSE_ENGINE_PORT"
SECRET_VARIABLE = "INHOUSE_ENGINE_SECRET"
MAX_FRAME = 64 * 1024 * 1024
HEADER = 4


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages: immutable, tagged with the class name on the wire."""


class Hello(Message, frozen=True):
    """The child's first message: the secret from its environment, and its protocol version."""

    secret: str
    version: int


class Load(Message, frozen=True):
    """Load a model and make it current. Answered by Progress, then Loaded or LoadFailed, with the same `number`."""

    number: int
    source: ModelSource


class Generate(Message, frozen=True):
    """Start a generation. Answered by Text or Failed with the same `stream` number."""

    stream: int
    request: EngineRequest


class Abort(Message, frozen=True):
    """Stop a generation at the next step boundary; an unknown number is ignored."""

    stream: int


class AskStats(Message, frozen=True):
    """Request Stats."""


class Progress(Message, frozen=True):
    """Progress of a load."""

    number: int
    progress: LoadProgress


class Loaded(Message, frozen=True):
    """A load succeeded."""

    number: int
    model: LoadedModel


class LoadFailed(Message, frozen=True):
    """A load failed and no model is loaded. `reason` is a message for users."""

    number: int
    reason: str


class Text(msgspec.Struct, frozen=True, array_like=True):
    """New text of one generation, and of its thoughts. The last one carries the finish reason and usage."""

    stream: int
    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    reasoning: str = ""


class Failed(msgspec.Struct, frozen=True, array_like=True):
    """One generation failed. `reason` is a message for users."""

    stream: int
    reason: str


class StepOutput(Message, frozen=True):
    """Output of all generations since the last StepOutput."""

    texts: list[Text]
    failed: list[Failed]


class Stats(Message, frozen=True):
    """Current engine statistics."""

    stats: EngineStats


class Beat(Message, frozen=True):
    """Heartbeat: the process makes progress or is idle. grown: a sentence about excess memory, or ''."""

    grown: str = ""


ToChild = Load | Generate | Abort | AskStats
ToParent = Hello | Progress | Loaded | LoadFailed | StepOutput | Stats | Beat

_encoder = msgspec.msgpack.Encoder()
_to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_to_parent: msgspec.msgpack.Decoder[ToParent] = msgspec.msgpack.Decoder(ToParent)


class ProtocolError(Exception):
    """A frame is too long or does not decode to a message."""


def frame(message: Message) -> bytes:
    """Encode a message as a frame. Raises ProtocolError if the body exceeds MAX_FRAME bytes."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a message of {len(body)} bytes is too long")
    return len(body).to_bytes(HEADER, "big") + body


def body_length(header: bytes) -> int:
    """Decode a frame header (HEADER bytes) to the body's length. Raises ProtocolError above MAX_FRAME."""
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME:
        raise ProtocolError(f"a frame announces {length} bytes")
    return length


def read_by_child(body: bytes) -> ToChild:
    """Decode a frame body from the parent. Raises ProtocolError."""
    try:
        return _to_child.decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error


def read_by_parent(body: bytes) -> ToParent:
    """Decode a frame body from the child. Raises ProtocolError."""
    try:
        return _to_parent.decode(body)
    except msgspec.MsgspecError as error:
        raise ProtocolError(str(error)) from error


def receive(connection: socket.socket) -> ToChild | None:
    """Read the next message from a blocking socket (child side); None if the connection ended. Raises ProtocolError."""
    header = _receive_exactly(connection, HEADER)
    body = _receive_exactly(connection, body_length(header)) if header else b""
    return read_by_child(body) if body else None


def _receive_exactly(connection: socket.socket, count: int) -> bytes:
    """Read `count` bytes, or return b'' if the connection ends first."""
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
