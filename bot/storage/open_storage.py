"""Opens the state of one host: locks its directory, checks the database and migrates it.

The database is a file in the directory, or on a PostgreSQL server; the directory then has the name under which this
host uses it.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import SecretStr

from bot.storage.backend import Backend
from bot.storage.cursors import Cursors
from bot.storage.database import READERS, Database
from bot.storage.expiry import Expiry
from bot.storage.files import check_database_files
from bot.storage.history import History
from bot.storage.hosts import Hosts
from bot.storage.identity import identity_of
from bot.storage.inbox import Inbox
from bot.storage.leases import Leases
from bot.storage.lock import StateLock
from bot.storage.outbox import Outbox
from bot.storage.postgresql import PostgresqlServer
from bot.storage.readonly import NAME
from bot.storage.sqlite import SqliteFile


class Storage:
    """All stored state. Create it with open(); unusable after close()."""

    inbox: Inbox
    history: History
    outbox: Outbox
    cursors: Cursors
    expiry: Expiry
    hosts: Hosts
    leases: Leases

    def __init__(self, database: Database, backend: Backend, resources: AsyncExitStack) -> None:
        self.inbox = Inbox(database)
        self.history = History(database)
        self.outbox = Outbox(database)
        self.cursors = Cursors(database)
        self.expiry = Expiry(database)
        self.hosts = Hosts(database)
        self.leases = Leases(database)
        self._database, self._backend, self._resources = database, backend, resources

    @classmethod
    async def open(
        cls,
        directory: Path,
        url: SecretStr | None = None,
        *,
        standby: Callable[[str], None] | None = None,
    ) -> "Storage":
        """Open the state in `directory`, created if missing, or in the database at `url`.

        standby: wait while other hosts use the database; called on another thread with their names.

        Raises StateLocked if another process (or another open() here) holds the directory, or a host uses a copy of
        it; ConfigError if the directory, a file in it or the URL cannot be used, StateFromElsewhere if the schema
        version is unknown, StorageError if the database is damaged or locked or does not answer.
        """
        resources = AsyncExitStack()
        try:
            resources.callback(StateLock(directory).release)
            backend = _backend(directory, url, standby)
            database = Database(backend)
            resources.push_async_callback(database.close)
            await database.prepare()
        except BaseException:
            await resources.aclose()
            raise
        return cls(database, backend, resources)

    async def until_taken(self) -> None:
        """Wait until another host has declared this one dead; raises StorageError then."""
        await self._database.until_taken()

    @property
    def taken(self) -> bool:
        """Whether another host has declared this one dead, so that nothing can be stored any more."""
        return bool(self._backend.taken)

    @property
    def holds_claim(self) -> bool:
        """Whether no other host can have declared this one dead up to this moment."""
        return self._database.holds_claim

    @property
    def outage_over_for_s(self) -> float:
        """Seconds since the last outage of the database server, infinite without one; 0 during one."""
        return self._database.outage_over_for_s

    def on_wake(self, woken: Callable[[], object]) -> None:
        """Call `woken`, on another thread, when another host has changed something. Without other hosts, never."""
        if isinstance(self._backend, PostgresqlServer):
            from bot.storage.wakes import Wakes  # with the driver, which only this database needs

            self._resources.callback(Wakes(self._backend.url, self._backend.host, woken).close)

    def stop_waiting(self) -> None:
        """Let all calls fail at once from now on while a database server does not answer."""
        self._database.stop_waiting()

    async def close(self) -> None:
        """Finish the current write, close the database and release the lock. Idempotent."""
        await self._resources.aclose()


def _backend(directory: Path, url: SecretStr | None, standby: Callable[[str], None] | None) -> Backend:
    if url is not None:
        return PostgresqlServer(url.get_secret_value(), identity_of(directory), READERS, standby=standby)
    check_database_files(directory / NAME)
    return SqliteFile(directory / NAME, connections=READERS + 1)
