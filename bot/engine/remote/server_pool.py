"""The servers of an engine: asks at intervals what they offer, and chooses one for each conversation.

A conversation stays with one server, for its prefix cache, unless that one has much more to do than another.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Callable, Iterable, Sequence

import aiohttp

from bot.engine.remote.api_client import ApiClient
from bot.engine.remote.server import Server
from bot.types.engine import Capabilities, LoadProgress, ServerState
from bot.types.errors import ModelError

PROBE_EVERY_S = 5.0
"""Interval at which servers are asked whether they can be used, and for their load."""
OTHERS_S = 2.0
"""Once one server can be used, a load waits so long for the answers of the others."""
PARTLY_S = 20.0
"""Longest wait for a model whose servers are down while others, with other models, can be used."""
WAITING = "waiting for the model's server"
"""Shown to people while no server can be used; the reason is for operators."""
ESCAPE = 4
"""A conversation leaves its server when that one has so many more requests than the least loaded one."""


class ServerPool:
    """Servers and the connections to them. Belongs to one event loop; call `open` first and `close` at the end.

    urls: the bases of their APIs. key: sent as a bearer token; '' for none. authority: a file of CA certificates to
    trust instead of the system's; '' for none. on_probed: called after each probe at an interval.
    """

    def __init__(
        self, urls: Sequence[str], key: str = "", authority: str = "", *, on_probed: Callable[[], None]
    ) -> None:
        self._urls, self._key, self._authority, self._on_probed = urls, key, authority, on_probed
        self._session: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._probing: list[asyncio.Task[None]] = []
        self.servers: tuple[Server, ...] = ()
        """In the order of the urls; known once it is open."""
        self._model = ""  # id of the model that requests are for
        self._found_one = False  # a model was found
        self._watches: set[asyncio.Task[None]] = set()

    @property
    def offered(self) -> tuple[str, ...]:
        """Ids of the models that reachable servers offer, sorted."""
        return tuple(sorted({model for server in self.servers if not server.problem for model in server.models}))

    @property
    def seeing(self) -> tuple[str, ...]:
        """Ids of the models that usable servers say can see, sorted."""
        usable = [server for server in self.servers if not server.problem]
        found = {model for server in usable for model in server.models if server.capabilities_of(model).vision}
        return tuple(sorted(found))

    @property
    def states(self) -> tuple[ServerState, ...]:
        """The state of each server, in the order of the settings."""
        return tuple(server.state for server in self.servers)

    @property
    def usable(self) -> list[Server]:
        """The servers that can be used now and offer the model."""
        return [server for server in self.servers if server.offers(self._model)]

    @property
    def capabilities(self) -> Capabilities:
        """What each usable server can do with the model; an ability that only some of them have is not counted on."""
        each = [server.capabilities_of(self._model) for server in self.usable]
        return Capabilities(
            reasoning=_all(known.reasoning for known in each),
            tools=_all(known.tools for known in each),
            vision=_all(known.vision for known in each),
            lacks=tuple(sorted({name for known in each for name in known.lacks})),
        )

    async def open(self) -> None:
        """Create the servers, and ask them at intervals whether they can be used. Does nothing the second time."""
        if self._session is not None:
            return
        context = ssl.create_default_context(cafile=self._authority) if self._authority else True
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session, self._fresh = (
            aiohttp.ClientSession(
                headers=headers, connector=aiohttp.TCPConnector(limit=0, ssl=context, force_close=fresh)
            )
            for fresh in (False, True)
        )
        sessions = self._session, self._fresh
        self.servers = tuple(Server(ApiClient(url, *sessions, self._key)) for url in self._urls)
        self._probing = [
            asyncio.create_task(self._keep_probing(server), name=f"engine server {server}") for server in self.servers
        ]

    async def close(self) -> None:
        """Close all connections; `open` opens new ones."""
        await _cancelled([*self._watches, *self._probing])
        for session in filter(None, [self._session, self._fresh]):
            await session.close()
        self._session = self._fresh = None
        self._probing, self.servers = [], ()

    def watch_abort(self, server: Server) -> None:
        """Find out in the background whether a server ends a request whose stream was closed."""
        if server.watching:
            return
        server.watching = True
        task = asyncio.create_task(server.watch_abort(), name="aborted request")
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    async def probe(self) -> None:
        """Ask each server now what it offers."""
        await asyncio.gather(*(server.probe() for server in self.servers))

    async def wait_for(self, model: str, progress: Callable[[LoadProgress], None]) -> None:
        """Wait until a server that offers `model` can be reached; requests are for this model from now on.

        Raises ModelError if all servers refuse the key, or can be reached and do not offer the model. After the first
        model, PARTLY_S bounds the wait if a server with other models can be used.
        """
        began = time.monotonic()
        await self.open()
        self._model = model
        while not self.usable:
            await self._find_usable()
            if self.usable:
                break
            self._raise_if_hopeless()
            others = any(not server.problem for server in self.servers)
            if self._found_one and others and time.monotonic() - began > PARTLY_S:  # else all other models wait, too
                raise ModelError(f"No server that can be reached now offers {model}.")
            problems = (f"{server}: {server.problem or 'it does not offer the model'}" for server in self.servers)
            progress(LoadProgress("; ".join(problems), 0.0, WAITING))
            await asyncio.sleep(PROBE_EVERY_S / 5)
        self._found_one = True

    async def _find_usable(self) -> None:
        """Ask all servers what they offer; waits no longer than OTHERS_S for the rest once one can be used."""
        asking = [asyncio.create_task(server.probe()) for server in self.servers]
        try:
            pending = set(asking)
            while pending and not self.usable:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                await asyncio.wait(pending, timeout=OTHERS_S)
            for task in asking:
                if task.done():
                    task.result()
        finally:
            await _cancelled(asking)

    def _raise_if_hopeless(self) -> None:
        """Raise ModelError if each server refuses the key, or can be reached and does not offer the model.

        Also raises it once the pool is closed.
        """
        if not self.servers:
            raise ModelError("The connections to the model's servers were closed.")
        if any(server.problem and not server.key_refused for server in self.servers):
            return
        if all(server.key_refused for server in self.servers):
            raise ModelError(f"The model's server cannot be used: {self.servers[0].problem}.")
        there = ", ".join(self.offered)
        raise ModelError(f"No server offers a model called {self._model}; the models there are: {there}.")

    def choose(self, conversation: str, tried: Sequence[Server]) -> Server | None:
        """The conversation's server by rendezvous hashing, or the least loaded one if that one is far busier.

        None if all usable servers were `tried`.
        """
        servers = [server for server in self.usable if server not in tried]
        if not servers:
            return None
        own = max(servers, key=lambda server: hashlib.sha256(f"{conversation} {server.api.url}".encode()).digest())
        idlest = min(servers, key=_load_of)
        return idlest if _load_of(own) - _load_of(idlest) >= ESCAPE else own

    async def _keep_probing(self, server: Server) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            await server.probe()
            await server.refresh_load()
            self._on_probed()


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _all(known: Iterable[bool | None]) -> bool | None:
    """False if one is False, True if all are True, else None."""
    values = list(known)
    return False if False in values else None if None in values or not values else True


def _load_of(server: Server) -> int:
    """Requests that the server has now: what it publishes, or at least what this service sent it."""
    return max(server.running, server.published_load or 0)
