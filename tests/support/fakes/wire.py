"""The protocol between the scripted platform and its adapter: one JSON object per line.

Converts events, outcomes and replies to JSON and back with pydantic, with all fields.
"""

import asyncio
import json
from typing import Any

from pydantic import TypeAdapter

from bot.types.messages import (
    Accepted,
    ConversationKey,
    Event,
    IncomingAction,
    IncomingCommand,
    IncomingForget,
    IncomingMessage,
    MessageDeleted,
    MessageEdited,
    Notice,
    Outcome,
    Refused,
    Reply,
)

Line = dict[str, Any]  # Any: JSON values

_NAMED: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (
        IncomingMessage,
        IncomingCommand,
        IncomingAction,
        IncomingForget,
        MessageEdited,
        MessageDeleted,
        Accepted,
        Notice,
        Refused,
        Reply,
        ConversationKey,
    )
}


def packed(value: Event | Outcome | Reply | ConversationKey) -> Line:
    """A value with the name of its type, as JSON."""
    name = type(value).__name__
    return {"type": name, "value": _NAMED[name].dump_python(value, mode="json")}


def unpacked(line: Line) -> Any:  # Any: the type is in the line
    """Restores a packed value."""
    return _NAMED[line["type"]].validate_python(line["value"])


async def send(writer: asyncio.StreamWriter, line: Line) -> None:
    """Writes one line. Raises ConnectionError if the connection is closed."""
    if writer.is_closing():
        raise ConnectionResetError("the connection is closed")
    writer.write(json.dumps(line).encode() + b"\n")
    await writer.drain()


async def receive(reader: asyncio.StreamReader) -> Line | None:
    """The next line; None at the end."""
    try:
        line = await reader.readline()
    except ConnectionError:
        return None
    if not line.endswith(b"\n"):
        return None
    found: Line = json.loads(line)
    return found
