"""Accept the status page's connections, at most LIMIT, and reserve file descriptors for the rest of the process.

At the limit, a new connection replaces the oldest one of the network with the most connections, so half-open
connections cannot lock out a health probe. A connection is not closed in its first GRACE_S seconds, enough for one
answer. asyncio's own server has no limit, and logs one error per connection of the backlog at each EMFILE.
"""

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bot.config.address import Address, network_of
from bot.observability.file_descriptors import soft_limit

LIMIT = 64
GRACE_S = 1.0
RESERVE = 64
"""Descriptors reserved for the rest of the process; at most a quarter of the soft limit."""
BACKLOG = 1024
"""Connections that wait to be accepted. A full queue drops packets, and clients then back off for seconds."""
RETRY_S = 1.0
"""Pause after a failed accept(), seconds."""
QUIET_S = 60.0
"""Minimum time between two warnings, seconds."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    transport: asyncio.Transport
    socket: socket.socket
    network: str
    since: float


class Connections:
    """Listening sockets and their accepted connections. protocols: factory of the protocol of a connection."""

    def __init__(self, protocols: Callable[[], asyncio.BaseProtocol]) -> None:
        self._protocols = protocols
        self._listeners: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: list[_Connection] = []  # oldest first
        self._exempt: set[asyncio.BaseTransport | None] = set()
        self._admitting = asyncio.Lock()  # 'localhost' has two listening sockets, IPv4 and IPv6
        self._warned_at = float("-inf")

    async def listen(self, address: Address) -> int:
        """Listen on every IP address of a host; return the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE, proto=socket.IPPROTO_TCP
            )
        except UnicodeError as error:  # an empty label, or one of more than 63 characters
            raise OSError(errno.EADDRNOTAVAIL, "not a host name") from error
        missing: OSError | None = None
        try:
            for family, _, _, _, place in dict.fromkeys(found):
                try:
                    listener = socket.create_server(place[:2], family=family, backlog=BACKLOG)
                except OSError as error:
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        raise
                    missing = error  # as ::1 of localhost where IPv6 is disabled
                    continue
                listener.setblocking(False)
                self._listeners.append(listener)
            if not self._listeners:
                raise missing or OSError(errno.EADDRNOTAVAIL, "no address")
        except OSError:
            await self.close()
            raise
        self._tasks = [asyncio.create_task(self._accept(each), name="status page") for each in self._listeners]
        return int(self._listeners[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening; open connections stay open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    def abort(self) -> None:
        """Close every connection immediately and drop unsent data."""
        for connection in self._open():
            connection.transport.abort()

    @contextmanager
    def exempt(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """Exempt a connection from being replaced by new ones. The caller must limit the number of these."""
        self._exempt.add(transport)
        try:
            yield
        finally:
            self._exempt.discard(transport)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:  # out of descriptors or memory
                self._warn("The status page cannot accept a connection (%s); retrying", error.strerror)
                self._drop(self._eviction_candidate())
                await asyncio.sleep(RETRY_S)
                continue
            if not peer:  # macOS: it was reset before it was accepted
                accepted.close()
                continue
            async with self._admitting:
                await self._admit(accepted, network_of(peer[0]))

    async def _admit(self, accepted: socket.socket, network: str) -> None:
        """Serve a connection once there is room for it, or close it."""
        try:
            if await self._has_room(accepted):
                transport, _ = await asyncio.get_running_loop().connect_accepted_socket(self._protocols, accepted)
                now = asyncio.get_running_loop().time()
                self._connections.append(_Connection(transport, accepted, network, now))
                return
        except OSError as error:
            self._warn("The status page lost a connection (%s)", error.strerror)
        except BaseException:
            accepted.close()
            raise
        accepted.close()

    async def _has_room(self, accepted: socket.socket) -> bool:
        """Make room for a connection; False if it uses a reserved descriptor and no other one can be closed."""
        loop = asyncio.get_running_loop()
        limit = soft_limit()
        # The kernel assigns the lowest free descriptor, so its number approximates how many are in use.
        if accepted.fileno() >= limit - min(RESERVE, limit / 4):
            self._warn("Few file descriptors are left (the limit is %.0f); the status page refuses", limit)
            oldest = self._eviction_candidate()
            if oldest is None or loop.time() < oldest.since + GRACE_S:
                return False
            self._drop(oldest)
            return True
        while len(self._open()) >= LIMIT:
            self._warn("The status page has %d connections, the maximum; it closes the oldest", LIMIT)
            oldest = self._eviction_candidate()
            wait_s = oldest.since + GRACE_S - loop.time() if oldest else GRACE_S
            if wait_s <= 0:
                self._drop(oldest)
            await asyncio.sleep(min(max(wait_s, 0.0), 0.05))
        return True

    def _open(self) -> list[_Connection]:
        """The open connections, oldest first; forgets closed ones."""
        self._connections = [each for each in self._connections if each.socket.fileno() >= 0]
        return self._connections

    def _eviction_candidate(self) -> _Connection | None:
        """The oldest connection of the network with the most connections, exempt ones aside."""
        candidates = [each for each in self._open() if each.transport not in self._exempt]
        counts = Counter(each.network for each in candidates)
        return max(candidates, key=lambda each: counts[each.network], default=None)

    @staticmethod
    def _drop(connection: _Connection | None) -> None:
        if connection is not None:
            with suppress(OSError):
                connection.transport.abort()

    def _warn(self, message: str, *values: object) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._warned_at + QUIET_S:
            self._warned_at = now
            log.warning(message, *values)
