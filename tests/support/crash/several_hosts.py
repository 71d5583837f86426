"""Runs several hosts on one PostgreSQL server, each with a relay to it, and the platforms of the crash tests."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.builders.databases import CHOSEN
from tests.support.builders.storage_rows import rows
from tests.support.crash.killable_service import CrashSetup, run_crash_service
from tests.support.crash.platforms import Asked, PlatformDriver
from tests.support.crash.verdict import signatures
from tests.support.fakes.database_relay import DatabaseRelay, run_relay

ROLES = "adapters,worker,web"
_DESCRIBED = "SELECT count(*) FROM hosts WHERE roles <> '' AND (slots > 0 OR roles NOT LIKE '%worker%')"


@dataclass(frozen=True, slots=True)
class CrashHost:
    """One host."""

    name: str
    setup: CrashSetup
    relay: DatabaseRelay


class CrashHosts:
    """The hosts in their order."""

    def __init__(self, hosts: list[CrashHost]) -> None:
        self._hosts = hosts
        self.setup = hosts[0].setup
        """That of the first host, to ask with."""

    @property
    def drivers(self) -> dict[str, PlatformDriver]:
        """The platforms."""
        return self.setup.drivers

    def __len__(self) -> int:
        return len(self._hosts)

    def __getitem__(self, name: str) -> CrashHost:
        return next(host for host in self._hosts if host.name == name)

    def besides(self, host: CrashHost) -> CrashHost:
        """Another one."""
        return next(each for each in self._hosts if each is not host)

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query on the database."""
        return rows(self.setup.state, query)

    async def begun(self, asked: Asked) -> CrashHost:
        """Waits until an answer has begun; the host that writes it."""
        await self.setup.until(lambda: bool(self._writers(asked)), f"the answer to question {asked.number} has begun")
        return self[min(self._writers(asked))]

    def writer(self, asked: Asked) -> CrashHost:
        """The host that wrote an answer."""
        (name,) = self._writers(asked)
        return self[name]

    async def last(self, last: CrashHost | None = None) -> CrashSetup:
        """Waits for all answers, and stops all hosts but one."""
        last = last or self._hosts[0]
        await last.setup.settled()
        for host in self._hosts:
            if host is not last and host.setup.is_running:
                await host.setup.stop()
        return last.setup

    def _writers(self, asked: Asked) -> set[str]:
        said = [each for driver in self.drivers.values() for each in driver.said()]
        return {name for each in said for number, name in signatures(each.text) if number == asked.number}


@asynccontextmanager
async def run_hosts(
    root: Path, *platforms: str, roles: Mapping[str, str], step_s: float = 0.1, lease_s: float = 15.0
) -> AsyncIterator[CrashHosts]:
    """Runs a host with each of these names, and waits until all serve. roles: INHOUSE_ROLES by name.

    step_s, lease_s: as in ChildParameters.
    """
    assert CHOSEN.server is not None
    (root / "platforms").mkdir()
    async with AsyncExitStack() as stack:
        setup = await stack.enter_async_context(run_crash_service(root / "platforms", *platforms, lease_s=lease_s))
        url = CHOSEN.url(setup.state)
        assert url is not None
        hosts: list[CrashHost] = []
        for name, of_host in roles.items():
            (root / name).mkdir()
            relay = await stack.enter_async_context(run_relay(CHOSEN.server.socket))
            hosts.append(CrashHost(name, setup.beside(root / name, writer=name, step_s=step_s), relay))
            hosts[-1].setup.use(database_url=relay.url(url).get_secret_value(), roles=of_host)
            stack.push_async_callback(hosts[-1].setup.close)
            await hosts[-1].setup.start(connected=False)
        found, listening = CrashHosts(hosts), sum("adapters" in each for each in roles.values())
        await hosts[0].setup.until(lambda: _serve(found, listening), "all hosts serve")
        yield found


def _serve(hosts: CrashHosts, listening: int) -> bool:
    sockets = {name: driver.sessions() for name, driver in hosts.drivers.items()}
    expected = {"discord": 1, "slack": listening}
    if any(count < expected[name] for name, count in sockets.items()):
        return False
    return hosts.rows(_DESCRIBED) == [(len(hosts),)]
