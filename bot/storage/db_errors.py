"""What SQLite and SQLAlchemy raise, turned into one sentence of ours. The only place that knows their error codes.

The sentences never hold a statement's parameters, which are people's messages.
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
    """The error of a database that is not what it was, with the way out."""
    return StorageError(
        f"The database {path} is damaged ({detail}): move it away together with the files beside it that start with "
        "its name, then restore a backup in its place or start again with an empty history."
    )


def closed(path: Path) -> StorageError:
    """The error of what comes after the end."""
    return StorageError(f"The database {path} is closed, for Inhouse ends; nothing was stored.")


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Raise what goes wrong inside as StorageError; `path` is the database that it happened to."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _explained(path, error) from error
    except OSError as error:
        raise _unusable(path, error.strerror) from error
    except (ValueError, OverflowError) as error:
        # from sqlite3 or pydantic; their own words may hold the value, which is a person's message
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
