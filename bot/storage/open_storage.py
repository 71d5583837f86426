"""Opens the state of one instance: locks its directory, checks the database and migrates it."""

from contextlib import AsyncExitStack
from pathlib import Path

from bot.storage.cursors import Cursors
from bot.storage.database import READERS, Database
from bot.storage.expiry import Expiry
from bot.storage.files import check_database_files
from bot.storage.history import History
from bot.storage.inbox import Inbox
from bot.storage.lock import StateLock
from bot.storage.outbox import Outbox
from bot.storage.readonly import NAME
from bot.storage.sqlite import SqliteFile


class Storage:
    """All stored state. Create it with open(); unusable after close()."""

    inbox: Inbox
    history: History
    outbox: Outbox
    cursors: Cursors
    expiry: Expiry

    def __init__(self, database: Database, resources: AsyncExitStack) -> None:
        self.inbox = Inbox(database)
        self.history = History(database)
        self.outbox = Outbox(database)
        self.cursors = Cursors(database)
        self.expiry = Expiry(database)
        self._resources = resources

    @classmethod
    async def open(cls, directory: Path) -> "Storage":
        """Open the state in `directory`, created if missing.

        Raises StateLocked if another process (or another open() here) holds it, ConfigError if the directory or a file
        in it cannot be used, StateFromElsewhere if the schema version is unknown, StorageError if the database is
        damaged or locked.
        """
        resources = AsyncExitStack()
        try:
            resources.callback(StateLock(directory).release)
            check_database_files(directory / NAME)
            database = Database(SqliteFile(directory / NAME, connections=READERS + 1))
            resources.push_async_callback(database.close)
            await database.prepare()
        except BaseException:
            await resources.aclose()
            raise
        return cls(database, resources)

    async def close(self) -> None:
        """Finish the current write, close the database and release the lock. Idempotent."""
        await self._resources.aclose()
