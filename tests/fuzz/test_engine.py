"""Tests arbitrary bytes as messages from or to the engine's process: a ProtocolError, or a valid message."""

import asyncio
import socket
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.engine.client import protocol
from bot.engine.client.child_process import read_hello
from bot.engine.client.protocol import Hello, ProtocolError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = [kind.__name__ for kind in (*get_args(protocol.ToChild), *get_args(protocol.ToParent))]
FIELDS = ["number", "source", "stream", "request", "progress", "model", "reason", "texts", "failed", "stats", "secret"]
MESSAGES = st.tuples(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4)).map(
    lambda pair: msgspec.msgpack.encode({"type": pair[0], **pair[1]})
)
BODIES = st.one_of(st.binary(max_size=200), MESSAGES, JSON.map(msgspec.msgpack.encode))
DEEP = b"\x91" * 100_000
"""Deeply nested lists."""


@pytest.mark.fault(44)
@given(BODIES)
@example(b"")
@example(DEEP)
@example(msgspec.msgpack.encode({"type": "StepOutput", "texts": [[1, "x", "no such reason"]], "failed": []}))
def test_a_body_is_a_message_or_an_error(body: bytes) -> None:
    for read, kinds in ((protocol.read_by_child, protocol.ToChild), (protocol.read_by_parent, protocol.ToParent)):
        try:
            message: Any = read(body)
        except ProtocolError:
            continue
        assert isinstance(message, kinds)


@pytest.mark.fault(44)
@given(st.binary(max_size=60))
@example(b"\xff\xff\xff\xff")
@example((protocol.MAX_FRAME + 1).to_bytes(4, "big"))
def test_a_stream_of_bytes_ends_or_is_an_error(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)  # small enough for the socket's buffer
        theirs.shutdown(socket.SHUT_WR)
        try:
            while protocol.receive(ours) is not None:
                pass
        except ProtocolError:
            pass


@pytest.mark.fault(44)
@given(BODIES)
@example(protocol.frame(Hello("not the secret", protocol.VERSION))[4:])
@example(protocol.frame(Hello("ünïcode", protocol.VERSION))[4:])
@example(protocol.frame(Hello("", 10**9))[4:])
async def test_no_other_server_is_taken_for_the_engine(body: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(len(body).to_bytes(4, "big") + body)
    reader.feed_eof()
    assert await read_hello(reader, "the secret of this start") is False
