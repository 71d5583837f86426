"""Gateway sessions with their replay buffers, and connections with their zlib streams.

A session survives its connection: events go into its buffer whether or not a client is connected, and a RESUME replays
those after its sequence number. A connection compresses all frames as one zlib stream and flushes each with
Z_SYNC_FLUSH.
"""

import asyncio
import json
import secrets
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from tests.support.fakes.discord.bits import Intents
from tests.support.fakes.discord.clock import Clock
from tests.support.fakes.discord.log import Frame, Log
from tests.support.fakes.discord.state import Json

REPLAY = 1000
"""Number of events that a session keeps for a RESUME."""

DISPATCH, HEARTBEAT, IDENTIFY, PRESENCE, RESUME, RECONNECT = 0, 1, 2, 3, 6, 7
REQUEST_MEMBERS, INVALID_SESSION, HELLO, ACK = 8, 9, 10, 11


@dataclass(eq=False)
class Session:
    """A gateway session of a shard, from its IDENTIFY on."""

    intents: Intents
    shard: int = 0
    shards: int = 1
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    sequence: int = 0
    buffer: deque[Json] = field(default_factory=lambda: deque(maxlen=REPLAY))
    connection: "Connection | None" = None
    left_at: float | None = None

    def serves(self, guild_id: str | None) -> bool:
        """Whether a server belongs to its shard; direct messages (None) belong to the first one."""
        return (int(guild_id or 0) >> 22) % self.shards == self.shard

    def dispatch(self, event: str, data: object) -> None:
        """Sends an event if connected, and keeps it for a RESUME."""
        self.sequence += 1
        frame: Json = {"op": DISPATCH, "t": event, "s": self.sequence, "d": data}
        self.buffer.append(frame)
        if self.connection is not None:
            self.connection.send(frame)

    def missed(self, sequence: int) -> list[Json] | None:
        """The events after a sequence number; None if some are no longer buffered."""
        missed = [frame for frame in self.buffer if frame["s"] > sequence]
        return missed if len(missed) == self.sequence - sequence else None


class Connection:
    """One websocket. A task of its own sends frames in order; a frozen connection neither sends nor reads."""

    def __init__(
        self, socket: web.WebSocketResponse, request: web.Request, clock: Clock, log: Log, tell: Callable[[], None]
    ) -> None:
        self.socket = socket
        self.session: Session | None = None
        self.moving = asyncio.Event()
        self.moving.set()
        self.answers_close = True
        self.given_close: int | None = None
        self._transport = request.transport
        self._clock, self._log, self._tell = clock, log, tell
        self._outgoing: asyncio.Queue[Json | int] = asyncio.Queue()
        self._stream = zlib.compressobj()
        self.received: deque[float] = deque()

    def send(self, frame: Json) -> None:
        """Queues a frame."""
        self._outgoing.put_nowait(frame)

    def close(self, code: int) -> None:
        """Closes with a code, after the queued frames."""
        self._outgoing.put_nowait(code)

    def abort(self) -> None:
        """Aborts the connection without a close frame, as a network failure does."""
        if self._transport is not None:
            self._transport.abort()

    def note(self, frame: Json, sent: bool) -> None:
        """Logs a frame."""
        session = self.session.id if self.session else ""
        event = str(frame.get("t") or "")
        self._log.frames.append(Frame(sent, int(frame["op"]), event, frame.get("d"), self._clock.now(), session))
        self._tell()

    async def write(self) -> None:
        """Sends queued frames until cancelled or closed."""
        while True:
            frame = await self._outgoing.get()
            await self.moving.wait()
            if isinstance(frame, int):
                await self.socket.close(code=frame)
                return
            data = self._stream.compress(json.dumps(frame).encode()) + self._stream.flush(zlib.Z_SYNC_FLUSH)
            try:
                await self.socket.send_bytes(data)
            except ConnectionError:
                return
            self.note(frame, sent=True)
