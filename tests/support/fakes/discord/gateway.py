"""The fake gateway: starts, resumes and ends sessions like Discord, over any number of connections.

Sends READY, dispatches, acks and close codes. `gateway_faults` has the methods with which tests disturb it.
"""

import asyncio
import json
from contextlib import suppress

from aiohttp import WSMsgType, web

from tests.support.fakes.discord import payloads
from tests.support.fakes.discord.bits import Intents
from tests.support.fakes.discord.gateway_faults import GatewayFaults
from tests.support.fakes.discord.handshake import Refused, SessionStart, checked_identify
from tests.support.fakes.discord.log import Log
from tests.support.fakes.discord.sessions import (
    ACK,
    HEARTBEAT,
    HELLO,
    IDENTIFY,
    INVALID_SESSION,
    PRESENCE,
    REQUEST_MEMBERS,
    RESUME,
    Connection,
    Session,
)
from tests.support.fakes.discord.state import Json
from tests.support.fakes.discord.store import Build, DiscordStore

RESUME_URL = "wss://gateway-us-east1-b.discord.gg"
RESUME_WINDOW = 180.0
"""Seconds after a lost connection for which its session can be resumed."""
SENDS, SENDS_SECONDS, SEND_BYTES = 120, 60.0, 4096


class Gateway(GatewayFaults):
    """All sessions and connections."""

    def __init__(self, store: DiscordStore, log: Log, token: str) -> None:
        super().__init__()
        self._store, self._log, self._token = store, log, token
        self.heartbeat_interval = 41.25
        self.identifies: list[float] = []
        self.resumes: list[float] = []
        self.presences: list[Json] = []
        self.session_start = SessionStart(store.clock)
        store.emit = self._emit

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serves one connection, from the upgrade to the close."""
        if self._refused_connections:
            self._refused_connections -= 1
            return web.Response(status=502)
        socket = web.WebSocketResponse(autoclose=False, max_msg_size=0)
        await socket.prepare(request)
        if (request.query.get("v"), request.query.get("compress")) != ("10", "zlib-stream"):
            await socket.close(code=4012)
            return socket
        connection = Connection(socket, request, self._store.clock, self._log, self._store.changes.tell)
        self._connections.add(connection)
        connection.send(
            {"op": HELLO, "d": {"heartbeat_interval": int(self.heartbeat_interval * 1000)}, "t": None, "s": None}
        )
        writer = asyncio.create_task(connection.write())
        code = 1006
        try:
            code = await self._read(connection)
        except Refused as refused:
            connection.moving.set()
            connection.close(refused.code)
            await writer
            code = refused.code
        finally:
            writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer
            self._connections.discard(connection)
            self._leave(connection, code)
        return socket

    async def stop(self) -> None:
        """Ends every connection."""
        self.thaw()
        self.abort()
        await self._store.changes.until(lambda: not self._connections)

    async def _read(self, connection: Connection) -> int:
        """Reads a client's frames until it closes; the close code."""
        patience = self.heartbeat_interval * 2 + 1
        while True:
            try:
                message = await connection.socket.receive(timeout=patience)
            except TimeoutError:
                raise Refused(4009) from None
            if message.type is WSMsgType.CLOSE and connection.answers_close:
                await connection.socket.close()
            if message.type is not WSMsgType.TEXT:
                if not connection.answers_close:
                    await connection.moving.wait()
                return connection.given_close or connection.socket.close_code or 1006
            self._limit(connection, message.data)
            frame = json.loads(message.data)
            connection.note(frame, sent=False)
            self._handle(connection, frame)

    def _limit(self, connection: Connection, data: str) -> None:
        """At most 120 frames in 60 seconds, of at most 4,096 bytes each."""
        now = self._store.clock.now()
        if len(data.encode()) > SEND_BYTES:
            raise Refused(4002)
        connection.received.append(now)
        while connection.received[0] < now - SENDS_SECONDS:
            connection.received.popleft()
        if len(connection.received) > SENDS:
            raise Refused(4008)

    def _handle(self, connection: Connection, frame: Json) -> None:
        op, data = frame.get("op"), frame.get("d")
        if op == HEARTBEAT:
            if not self.drop_acks:
                connection.send({"op": ACK, "d": None, "t": None, "s": None})
        elif op in (IDENTIFY, RESUME) and isinstance(data, dict):
            if connection.session is not None:
                raise Refused(4005)
            self._identify(connection, data) if op == IDENTIFY else self._resume(connection, data)
        elif connection.session is None:
            raise Refused(4003)
        elif op == PRESENCE and isinstance(data, dict):
            self.presences.append(data)
        elif op == REQUEST_MEMBERS and isinstance(data, dict):
            self._members(connection.session, data)
        else:
            raise Refused(4001)

    def _identify(self, connection: Connection, data: Json) -> None:
        """Starts a session: sends READY, then every server."""
        self.identifies.append(self._store.clock.now())
        if self._refused_identifies:
            raise Refused(self._refused_identifies.pop(0))
        session = Session(*checked_identify(data, self._token, self.session_start, self._store))
        if data.get("presence"):
            self.presences.append(data["presence"])
        self._sessions[session.id] = session
        session.connection, connection.session = connection, session
        store = self._store
        guilds = [guild for guild in store.guilds.values() if session.serves(guild.id)]
        ready = payloads.ready(store.bot, [guild.id for guild in guilds], session.id, RESUME_URL, store.flags)
        session.dispatch("READY", ready | {"shard": [session.shard, session.shards]})
        for guild in guilds:
            everybody = bool(session.intents & Intents.GUILD_MEMBERS)
            session.dispatch("GUILD_CREATE", payloads.guild(guild, store.visible(guild), store.bot, everybody))

    def _resume(self, connection: Connection, data: Json) -> None:
        """Resumes a session: replays missed events, then RESUMED; or sends op 9 if it cannot be resumed."""
        self.resumes.append(self._store.clock.now())
        if data.get("token") != self._token:
            raise Refused(4004)
        session = self._sessions.get(str(data.get("session_id")))
        if session is not None and int(data.get("seq") or 0) > session.sequence:
            raise Refused(4007)
        missed = session.missed(int(data.get("seq") or 0)) if session is not None else None
        left = session.left_at if session is not None and session.left_at is not None else self._store.clock.now()
        if session is None or missed is None or left < self._store.clock.now() - RESUME_WINDOW:
            connection.send({"op": INVALID_SESSION, "d": False, "t": None, "s": None})
            return
        if session.connection is not None:
            session.connection.session = None
        session.connection, connection.session = connection, session
        session.left_at = None
        for frame in missed:
            connection.send(frame)
        session.dispatch("RESUMED", {"_trace": []})

    def _leave(self, connection: Connection, code: int) -> None:
        """Detaches a session from its connection; drops it if the client closed with 1000 or 1001."""
        session = connection.session
        if session is not None and session.connection is connection:
            session.connection = None
            session.left_at = session.left_at if session.left_at is not None else self._store.clock.now()
            if code in (1000, 1001):
                self._sessions.pop(session.id, None)
        self._store.changes.tell()

    def _members(self, session: Session, data: Json) -> None:
        """Sends all members of a server in one chunk."""
        guild = self._store.guilds[str(data["guild_id"])]
        people = [payloads.member(each, guild) for each in guild.members.values()]
        chunk = {
            "guild_id": guild.id,
            "members": people,
            "chunk_index": 0,
            "chunk_count": 1,
            "nonce": data.get("nonce"),
        }
        session.dispatch("GUILD_MEMBERS_CHUNK", chunk)

    def _emit(self, event: str, build: Build) -> None:
        """Dispatches an event to every session of its shard that asked for it, connected or not."""
        for session in list(self._sessions.values()):
            data = build(session.intents)
            if data is not None and session.serves(data.get("guild_id")):
                session.dispatch(event, data)
