"""Opens the state of one instance: locks its directory, checks the database and migrates it.

The database is a file in the directory, or on a PostgreSQL server; the directory then has the name under which this
instance claims it.
"""

import socket
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import SecretStr

from bot.storage.atomic_file import new_file
from bot.storage.backend import Backend
from bot.storage.cursors import Cursors
from bot.storage.database import READERS, Database
from bot.storage.expiry import Expiry
from bot.storage.files import check_database_files, check_file
from bot.storage.history import History
from bot.storage.inbox import Inbox
from bot.storage.leases import Leases
from bot.storage.lock import StateLock
from bot.storage.outbox import Outbox
from bot.storage.postgresql import PostgresqlServer
from bot.storage.readonly import NAME
from bot.storage.sqlite import SqliteFile

OWNER = "instance"
"""File in a state directory with the name of its instance, so that a restart does not wait for its own claim's end."""


class Storage:
    """All stored state. Create it with open(); unusable after close()."""

    inbox: Inbox
    history: History
    outbox: Outbox
    cursors: Cursors
    expiry: Expiry
    leases: Leases

    def __init__(self, database: Database, resources: AsyncExitStack) -> None:
        self.inbox = Inbox(database)
        self.history = History(database)
        self.outbox = Outbox(database)
        self.cursors = Cursors(database)
        self.expiry = Expiry(database)
        self.leases = Leases(database)
        self._database, self._resources = database, resources

    @classmethod
    async def open(
        cls,
        directory: Path,
        url: SecretStr | None = None,
        *,
        standby: Callable[[str], None] | None = None,
    ) -> "Storage":
        """Open the state in `directory`, created if missing, or in the database at `url`.

        standby: wait while another instance holds the database; called on another thread with that one's name.

        Raises StateLocked if another process (or another open() here) holds it, ConfigError if the directory, a file in
        it or the URL cannot be used, StateFromElsewhere if the schema version is unknown, StorageError if the database
        is damaged or locked or does not answer.
        """
        resources = AsyncExitStack()
        try:
            resources.callback(StateLock(directory).release)
            database = Database(_backend(directory, url, standby))
            resources.push_async_callback(database.close)
            await database.prepare()
        except BaseException:
            await resources.aclose()
            raise
        return cls(database, resources)

    async def until_taken(self) -> None:
        """Wait until another Inhouse has claimed the database; raises StateLocked then."""
        await self._database.until_taken()

    @property
    def holds_claim(self) -> bool:
        """Whether no other instance can have claimed the database up to this moment."""
        return self._database.holds_claim

    def stop_waiting(self) -> None:
        """Let all calls fail at once from now on while a database server does not answer."""
        self._database.stop_waiting()

    async def close(self) -> None:
        """Finish the current write, close the database and release the lock. Idempotent."""
        await self._resources.aclose()


def _backend(directory: Path, url: SecretStr | None, standby: Callable[[str], None] | None) -> Backend:
    if url is not None:
        return PostgresqlServer(url.get_secret_value(), owner_of(directory), READERS, standby=standby)
    check_database_files(directory / NAME)
    return SqliteFile(directory / NAME, connections=READERS + 1)


def owner_of(directory: Path) -> str:
    """The name of this instance, which its state directory keeps: the host of its first start, and an id."""
    path = directory / OWNER
    check_file(path)
    if not path.exists():
        with new_file(path, force=True) as new:
            new.write_text(f"{socket.gethostname()}, {uuid.uuid4().hex}", "utf-8")
    return path.read_text("utf-8").strip()
