"""Defines what `Database` needs of the program that stores the data: SQLite or a PostgreSQL server."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from sqlalchemy import Connection

from bot.storage.outage import Outage, Unreachable
from bot.types.errors import StorageError

__all__ = ["Backend", "Taken", "Unreachable"]


class Taken(StorageError):
    """Another host has declared this one dead and taken over its requests, so this one must not write any more."""


class Backend(ABC):
    """Connections and transactions of one database. `name` stands for it in sentences.

    The functions block. Those with a `Connection` run inside a transaction.
    """

    def __init__(self, name: str) -> None:
        self.name, self.outage = name, Outage(name)
        self.taken = ""
        """A sentence once another host has declared this one dead."""
        self.host = ""
        """The name of this host in rows; '' where no other host can use the database."""
        self.has_others = False
        """Whether other hosts use the database, which must be woken."""

    @abstractmethod
    def mapped(self) -> AbstractContextManager[None]:
        """Map errors in the block to StorageError."""

    @abstractmethod
    def create(self) -> None:
        """Make the database usable before its first transaction. Raises StorageError and ConfigError."""

    @abstractmethod
    def claim(self) -> float | None:
        """Claim the database for this host; returns the seconds until the next attempt, None if it succeeded."""

    @abstractmethod
    def check(self, connection: Connection) -> None:
        """Check the stored data. Raises StorageError if it is damaged."""

    @abstractmethod
    def migrate(self, connection: Connection) -> None:
        """Migrate the schema to the newest version. Raises StateFromElsewhere."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Connection]:
        """Open a transaction that reads one snapshot."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[Connection]:
        """Open a transaction that writes, and commit it: once the block is left, it is on disk, or nothing is."""

    @abstractmethod
    def can_go_on(self, connection: Connection) -> bool:
        """Whether the transaction of a statement that failed can be continued from an earlier savepoint."""

    @abstractmethod
    def erase_log(self) -> bool:
        """Remove deleted text from files beside the data, outside of a transaction; returns whether to retry later."""

    @abstractmethod
    def trim(self, connection: Connection) -> bool:
        """Return some unused space to the file system; False if none is left."""

    @abstractmethod
    def holds_claim(self) -> bool:
        """Whether no other host can have declared this one dead up to this moment."""

    @abstractmethod
    def renew(self) -> float | None:
        """Seconds after which an empty write must renew the claim on the database; None if it needs none."""

    def stop_waiting(self) -> None:
        """Let calls fail at once from now on while the server does not answer."""
        self.outage.stop_waiting()

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""


WAKE = "wake"
"""Mark of a connection in whose transaction the other hosts are woken."""


def wake_others(connection: Connection) -> None:
    """Wake the other hosts once the transaction is committed."""
    connection.info[WAKE] = True
