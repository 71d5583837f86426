"""Maps SQLite and SQLAlchemy errors to StorageError, with one sentence each; the only module that reads error codes.

The sentences never contain statement parameters, because these are user messages.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from bot.types.errors import StorageError

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_UNUSABLE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)


def damaged(path: Path, detail: str) -> StorageError:
    """Error for a damaged database, with instructions."""
    return StorageError(
        f"The database {path} is damaged ({detail}): move it away with the files beside it that start with its "
        "name, and restore a backup in its place or start with an empty history."
    )


def closed(name: str) -> StorageError:
    """Error for calls after the database was closed."""
    return StorageError(f"The database {name} is closed because Inhouse is stopping; nothing was stored.")


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Map errors in the block to StorageError; `path` is the database."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _explained(path, error) from error
    except OSError as error:
        raise _unusable(path, error.strerror) from error
    except (ValueError, OverflowError) as error:
        # From sqlite3 or pydantic; their text may contain the value, which may be a user message.
        raise StorageError(f"A value cannot be stored in {path} or read from it ({type(error).__name__}).") from None


def _explained(path: Path, error: Exception) -> StorageError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    if code in _DAMAGED:
        return damaged(path, str(cause))
    if code in _LOCKED:
        return StorageError(f"The database {path} is locked by another program: close it; nothing was stored.")
    if code == sqlite3.SQLITE_FULL:
        return StorageError(f"The disk of {path} is full: free some space; nothing was stored.")
    if code in _UNUSABLE:
        return _unusable(path, cause)
    return StorageError(f"The database {path} refused ({cause or type(error).__name__}); nothing was stored.")


def _unusable(path: Path, reason: object) -> StorageError:
    return StorageError(
        f"The database {path} could not be read or written ({reason}): "
        "check the disk, its free space, and that this user may write the file and its directory."
    )
