"""Socket Mode: tickets, sockets, envelopes with acks and redeliveries, and the ways in which a socket ends.

An envelope without an ack in time is sent again with the same event id: at once, after one minute, after five. `scale`
shortens these times. The log records every delivery and ack.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field

from aiohttp import WSCloseCode, WSMsgType, web

from tests.support.fakes.slack import payloads
from tests.support.fakes.slack.api import Handler
from tests.support.fakes.slack.asks import Ask, SlackError
from tests.support.fakes.slack.log import Ack, Delivery, Log
from tests.support.fakes.slack.state import Json
from tests.support.fakes.slack.store import SlackStore

ACK_S = 3.0
AGAIN_S = (0.0, 60.0, 300.0)
MOST_SOCKETS = 10
TICKET_S = 30.0


@dataclass(eq=False)
class Socket:
    """One connected client."""

    number: int
    ws: web.WebSocketResponse
    request: web.Request
    leaving: bool = False
    frozen: bool = False


@dataclass(eq=False)
class Envelope:
    """An envelope that the app must acknowledge."""

    event_id: str
    kind: str
    what: str
    payload: Json
    ids: dict[str, tuple[float, int, int]] = field(default_factory=dict)  # sent at, attempt, socket
    acked: asyncio.Event = field(default_factory=asyncio.Event)


class SocketMode:
    """All sockets of one app."""

    def __init__(self, store: SlackStore, log: Log) -> None:
        self._store, self._log = store, log
        self._tickets: dict[str, float] = {}
        self.sockets: list[Socket] = []
        self.envelopes: list[Envelope] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._number = 0
        self.opened = 0
        self.scale = 1.0
        self.ping_s = 5.0
        self.ponged = 0
        self.enabled = True
        self.deaf_to_acks = False
        store.emit = self._on_event

    def methods(self) -> dict[str, Handler]:
        """Method to handler."""
        return {"apps.connections.open": self._open}

    @property
    def online(self) -> bool:
        """Whether a client is connected."""
        return any(not socket.leaving for socket in self.sockets)

    def _open(self, ask: Ask) -> Json:
        if not self.enabled:
            raise SlackError("socket_mode_not_enabled")
        ticket = secrets.token_hex(16)
        self._tickets[ticket] = self._store.clock.now() + TICKET_S
        address = self._store.base_url.replace("http", "ws", 1)
        return {"url": f"{address}link/?ticket={ticket}&app_id={payloads.APP_ID}"}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Accepts a client with a ticket, which is valid once."""
        until = self._tickets.pop(request.query.get("ticket", ""), 0.0)
        if until < self._store.clock.now() or len(self.sockets) >= MOST_SOCKETS:
            return web.Response(status=401 if until else 408)
        ws = web.WebSocketResponse(autoping=False)
        await ws.prepare(request)
        self._number += 1
        self.opened += 1
        socket = Socket(self._number, ws, request)
        self.sockets.append(socket)
        hello: Json = {"type": "hello", "num_connections": len(self.sockets)}
        debug = {"host": "applink-1", "build_number": 1, "approximate_connection_time": 18060}
        await ws.send_json(hello | {"debug_info": debug, "connection_info": {"app_id": payloads.APP_ID}})
        pinging = asyncio.create_task(self._ping(socket))
        self._store.changes.tell()
        try:
            await self._hear(socket)
        finally:
            pinging.cancel()
            self.sockets.remove(socket)
            self._store.changes.tell()
        return ws

    async def _hear(self, socket: Socket) -> None:
        async for frame in socket.ws:
            if socket.frozen:
                continue
            if frame.type is WSMsgType.PING:
                await socket.ws.pong(frame.data)
                self.ponged += 1
                self._store.changes.tell()
            elif frame.type is WSMsgType.TEXT:
                with contextlib.suppress(ValueError):
                    self._on_ack(json.loads(frame.data), socket)

    def _on_ack(self, body: Json, socket: Socket) -> None:
        if self.deaf_to_acks:
            return
        name, now = str(body.get("envelope_id", "")), self._store.clock.now()
        for envelope in self.envelopes:
            if name in envelope.ids:
                sent, attempt, _ = envelope.ids[name]
                took = now - sent
                late = took > ACK_S * self.scale
                self._log.acks.append(
                    Ack(
                        name,
                        envelope.event_id,
                        envelope.kind,
                        envelope.what,
                        took,
                        body.get("payload"),
                        attempt,
                        socket.number,
                        late,
                    )
                )
                if not late:
                    envelope.acked.set()
        self._store.changes.tell()

    async def _ping(self, socket: Socket) -> None:
        while True:
            await asyncio.sleep(self.ping_s)
            if not socket.frozen and not socket.ws.closed:
                with contextlib.suppress(ConnectionError):
                    await socket.ws.ping(b"Ping from applink-1")
                    self._log.pings += 1

    # sending

    def _on_event(self, event_id: str, event: Json) -> None:
        what = event["type"] + (f".{event['subtype']}" if event.get("subtype") else "")
        self.send(event_id, "events_api", what, payloads.envelope_event(event, event_id, self._store.bot))

    def send(self, event_id: str, kind: str, what: str, payload: Json, *, again: bool = True) -> Envelope:
        """Sends an envelope; with `again`, repeats it until it is acknowledged."""
        envelope = Envelope(event_id, kind, what, payload)
        self.envelopes.append(envelope)
        del self.envelopes[:-5000]
        self._run(self._deliver(envelope, again))
        return envelope

    def redeliver(self, event_id: str) -> None:
        """Sends an event again, as Slack does when an ack got lost."""
        envelope = next(each for each in self.envelopes if each.event_id == event_id)
        self._run(self._push(envelope, 1))

    async def _deliver(self, envelope: Envelope, again: bool) -> None:
        for attempt, wait in enumerate((0.0, *AGAIN_S)):
            if wait:
                await self._store.clock.sleep(wait * self.scale)
            if envelope.acked.is_set():
                return
            await self._push(envelope, attempt)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ACK_S * self.scale):
                    await envelope.acked.wait()
            if envelope.acked.is_set() or not again:
                return

    async def _push(self, envelope: Envelope, attempt: int) -> None:
        while not self.online:
            await self._store.changes.until(lambda: self.online, 600)
        able = [socket for socket in self.sockets if not socket.leaving]
        self._turn += 1
        socket = able[self._turn % len(able)]
        name = secrets.token_hex(12)
        envelope.ids[name] = (self._store.clock.now(), attempt, socket.number)
        frame: Json = {"type": envelope.kind, "envelope_id": name, "payload": envelope.payload}
        frame["accepts_response_payload"] = envelope.kind != "events_api"
        if envelope.kind == "events_api":
            frame |= {"retry_attempt": attempt, "retry_reason": "timeout" if attempt else ""}
        self._log.deliveries.append(
            Delivery(
                name,
                envelope.event_id,
                envelope.kind,
                envelope.what,
                attempt,
                socket.number,
                self._store.clock.now(),
            )
        )
        if not socket.frozen:
            with contextlib.suppress(ConnectionError):
                await socket.ws.send_json(frame)

    # ends of sockets

    async def disconnect(self, reason: str, closes_after: float | None = None) -> None:
        """Sends a disconnect to every socket; a leaving socket gets no more envelopes."""
        for socket in list(self.sockets):
            socket.leaving = True
            with contextlib.suppress(ConnectionError):
                await socket.ws.send_json({"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-1"}})
            if reason == "link_disabled":
                self.enabled = False
            if closes_after is not None:
                self._run(self._close(socket, closes_after))

    async def _close(self, socket: Socket, after: float) -> None:
        await asyncio.sleep(after)
        await socket.ws.close(code=WSCloseCode.OK)

    def freeze(self, frozen: bool) -> None:
        """Makes the existing sockets half-open: no frame passes either way."""
        for socket in self.sockets:
            socket.frozen = frozen

    def kill(self) -> None:
        """Aborts every socket."""
        for socket in list(self.sockets):
            if socket.request.transport is not None:
                socket.request.transport.abort()

    async def stop(self) -> None:
        """Stops the server."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.kill()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
