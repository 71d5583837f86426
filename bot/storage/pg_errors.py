"""Maps errors of a PostgreSQL server and its driver to StorageError, with one sentence each.

Only the primary message of the server is quoted: the details of a broken constraint contain the row, which may be a
user message. The driver never quotes a password.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from bot.storage.backend import Unreachable
from bot.types.errors import StorageError

_LOCKED = ("55P03", "40P01", "40001")  # lock timeout, deadlock, serialization failure
_FULL = ("53100", "53200")
_FORBIDDEN = ("42501",)
_NOT_NOW = ("08", "57P", "53300", "25006")
"""Beginnings of codes: connection lost, server starts or stops, too many connections, a standby that only reads."""
_UNANSWERED = ("OperationalError", "ConnectionTimeout")
"""The driver's errors without a code of the server's."""

_SETTINGS = (
    (("password authentication failed",), "correct the user or the password in INHOUSE_DATABASE_URL"),
    (("no password supplied",), "add the password to INHOUSE_DATABASE_URL (postgresql://user:password@host/name)"),
    (
        ("pg_hba.conf", "no encryption"),
        "add `?sslmode=verify-full&sslrootcert=FILE` to INHOUSE_DATABASE_URL, or allow this host and user there",
    ),
    (("pg_hba.conf",), "allow this host and user there, or correct INHOUSE_DATABASE_URL"),
    (('role "', "does not exist"), "create the user (`createuser --pwprompt NAME`), or correct INHOUSE_DATABASE_URL"),
    (
        ('database "', "does not exist"),
        "create it (`createdb --encoding UTF8 --owner USER NAME`), or correct INHOUSE_DATABASE_URL",
    ),
    (
        ("eer authentication failed",),
        "run Inhouse as that user, or name host, user and password in INHOUSE_DATABASE_URL",
    ),
    (
        ("certificate verify failed",),
        "set sslrootcert in INHOUSE_DATABASE_URL to the certificate of the authority that signed the server's, or to "
        "'system'",
    ),
    (("root certificate file",), "set sslrootcert in INHOUSE_DATABASE_URL to a file with certificates, or to 'system'"),
    (("does not match host name",), "name the host in INHOUSE_DATABASE_URL as the server's certificate names it"),
    (("does not support SSL",), "turn it on there (`ssl = on`), or remove sslmode from INHOUSE_DATABASE_URL"),
    (("could not translate host name",), "correct the host in INHOUSE_DATABASE_URL"),
    (("failed to resolve host",), "correct the host in INHOUSE_DATABASE_URL"),
)
"""What to do about a refused connection, by parts of the server's or the driver's message."""


class Refused(Unreachable):
    """The server or its host refused the connection for what INHOUSE_DATABASE_URL says."""


@contextmanager
def mapped(name: str) -> Iterator[None]:
    """Map errors in the block to StorageError; `name` stands for the database in sentences."""
    try:
        yield
    except DBAPIError as error:
        raise _explained(name, error) from error
    except SQLAlchemyError as error:
        raise StorageError(f"The database {name} refused ({type(error).__name__}); nothing was stored.") from error
    except (ValueError, OverflowError) as error:
        # From the driver or pydantic; their text may contain the value, which may be a user message.
        raise StorageError(f"A value cannot be stored in {name} or read from it ({type(error).__name__}).") from None


def _explained(name: str, error: DBAPIError) -> StorageError:
    code = getattr(error.orig, "sqlstate", None) or ""
    if not code and (error.connection_invalidated or type(error.orig).__name__ in _UNANSWERED):
        return _unreachable(name, " ".join(str(error.orig).split()))
    reason = getattr(getattr(error.orig, "diag", None), "message_primary", None) or type(error.orig).__name__
    if error.connection_invalidated or code.startswith(_NOT_NOW):
        return _unreachable(name, reason)
    if code in _LOCKED:
        return StorageError(f"The database {name} is locked by another program: close it; nothing was stored.")
    if code in _FULL:
        return StorageError(f"The server of the database {name} is full ({reason}): free some space there.")
    if code in _FORBIDDEN:
        return StorageError(
            f"The database {name} does not allow this ({reason}): make its user the owner of the database (`ALTER "
            "DATABASE name OWNER TO user`)."
        )
    return StorageError(f"The database {name} refused ({reason}); nothing was stored.")


def _unreachable(name: str, reason: str) -> Unreachable:
    reason = reason.removeprefix("connection failed: ").removeprefix("connection is bad: ")
    if reason.count(" failed: ") == 1:  # of one host, which `name` has
        reason = reason.partition(" failed: ")[2].removeprefix("FATAL: ")
    reason = reason.partition(" Either provide the file")[0].replace(": ", ", ").rstrip(".?")
    for parts, remedy in _SETTINGS:
        if all(part in reason for part in parts):
            return Refused(f"The database {name} refuses the connection ({reason}): {remedy}.")
    return Unreachable(
        f"The database {name} cannot be reached ({reason}): start PostgreSQL there, or check the network and "
        "INHOUSE_DATABASE_URL."
    )
