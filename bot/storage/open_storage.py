"""Open the state of one Inhouse: lock its directory, check the database in it and bring it up to date."""

from contextlib import AsyncExitStack
from pathlib import Path

from bot.storage.cursors import Cursors
from bot.storage.database import Database
from bot.storage.expiry import Expiry
from bot.storage.files import check_database_files
from bot.storage.history import History
from bot.storage.inbox import Inbox
from bot.storage.lock import StateLock
from bot.storage.outbox import Outbox
from bot.storage.readonly import NAME


class Storage:
    """Everything that is stored. Made by open(); of no use after close()."""

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
        """Make or take over the state in `directory`.

        Raises StateLocked if another process (or another open() here) has it, ConfigError if the directory or what lies
        in it cannot be used, StateFromElsewhere if the tables are not of a version that is known here, StorageError if
        the database is damaged or locked.
        """
        resources = AsyncExitStack()
        try:
            resources.callback(StateLock(directory).release)
            check_database_files(directory / NAME)
            database = Database(directory / NAME)
            resources.push_async_callback(database.close)
            await database.prepare()
        except BaseException:
            await resources.aclose()
            raise
        return cls(database, resources)

    async def close(self) -> None:
        """Wait for the write under way, close the database and release the directory. Closing twice is harmless."""
        await self._resources.aclose()
