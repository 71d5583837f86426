"""Links between hosts and the database, which can be cut: through a relay on loopback, or of a network namespace."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from pydantic import SecretStr
from sqlalchemy import make_url

from tests.support.fakes.database_relay import DatabaseRelay, run_relay
from tests.support.network_namespaces import Namespace, add_bridge, run_namespace
from tests.support.postgresql import PostgresqlProcess

CHAT, DATABASE = "chat", "database"
"""Bridges to the platforms and to the database servers."""
PLATFORMS = "10.213.1.1"
"""Address of the platforms on their bridge."""


class Link(Protocol):
    """A host's link to the database. namespace: as in ChildParameters."""

    namespace: int

    def url(self, url: SecretStr) -> SecretStr:
        """The URL of a database over this link."""

    async def cut(self) -> None:
        """Cuts it."""

    async def restore(self) -> None:
        """Ends `cut`."""


class RelayedLink:
    """A relay for each server, which breaks its connections and refuses new ones while the link is cut."""

    namespace = 0

    def __init__(self, relays: Sequence[DatabaseRelay]) -> None:
        self._relays = relays

    def url(self, url: SecretStr) -> SecretStr:
        return _at(url, [f"127.0.0.1:{relay.port}" for relay in self._relays])

    async def cut(self) -> None:
        for relay in self._relays:
            await relay.cut()

    async def restore(self) -> None:
        for relay in self._relays:
            await relay.start()


class NamespaceLink:
    """A link of a namespace, which loses all packets while it is cut."""

    def __init__(self, namespace: Namespace, servers: Sequence[PostgresqlProcess]) -> None:
        self.namespace = namespace.pid
        self._namespace, self._servers = namespace, servers

    def url(self, url: SecretStr) -> SecretStr:
        return _at(url, [f"{server.address}:5432" for server in self._servers])

    async def cut(self) -> None:
        self._namespace.unplug(DATABASE)

    async def restore(self) -> None:
        self._namespace.plug(DATABASE)


def server_address(number: int) -> str:
    """The address of a database server on its bridge."""
    return f"10.213.2.{number}"


def add_bridges(servers: int) -> None:
    """Adds the bridges to this process's namespace."""
    add_bridge(CHAT, f"{PLATFORMS}/24")
    add_bridge(DATABASE, *(f"{server_address(number)}/24" for number in range(1, servers + 1)))


@asynccontextmanager
async def open_links(
    servers: Sequence[PostgresqlProcess], hosts: int, *, namespaces: bool
) -> AsyncIterator[list[Link]]:
    """A link for each host, until the block ends. namespaces: each has a namespace; `add_bridges` was called."""
    links: list[Link] = []
    async with AsyncExitStack() as stack:
        for number in range(1, hosts + 1):
            if namespaces:
                namespace = stack.enter_context(run_namespace(f"host{number}"))
                namespace.add_link(CHAT, f"10.213.1.{100 + number}/24")
                namespace.add_link(DATABASE, f"10.213.2.{100 + number}/24")
                links.append(NamespaceLink(namespace, servers))
            else:
                relays = [await stack.enter_async_context(run_relay(server.socket)) for server in servers]
                links.append(RelayedLink(relays))
        yield links


def _at(url: SecretStr, places: Sequence[str]) -> SecretStr:
    """The URL with these hosts in place of its own."""
    moved = make_url(url.get_secret_value()).set(host=None, port=None, query={"host": list(places)})
    return SecretStr(moved.render_as_string(hide_password=False))
