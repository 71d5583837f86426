"""The tables brought up to date by hand, with a copy of what was before.

In: a state directory that nobody uses. Out: a database of the newest version, packed. Promise: before anything is
changed, a copy lies beside it.
"""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bot.storage.backup import Progress, back_up
from bot.storage.database import Database
from bot.storage.db_errors import mapped
from bot.storage.expiry import INCREMENTAL
from bot.storage.lock import StateLock
from bot.storage.readonly import database_in, looking
from bot.storage.schema_version import newest, version_of


@dataclass(frozen=True, slots=True)
class Upgrade:
    """From which version to which; `copy` is what was before, None if there was nothing to do."""

    before: str
    after: str
    copy: Path | None


async def upgrade(directory: Path, progress: Progress) -> Upgrade:
    """Bring the database of a state directory up to date.

    Raises ConfigError (no database, or of a version that is not known here; somebody uses it), StorageError.
    """
    path = database_in(directory)
    lock = StateLock(directory)
    try:
        with looking(directory) as connection:
            before = version_of(connection, path)
            packed = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() == INCREMENTAL
        if before == newest() and packed:
            return Upgrade(before, before, None)
        copy = path.with_name(f"{path.name}.{before or 'empty'}.{time.strftime('%Y%m%d-%H%M%S')}")
        back_up(directory, copy, progress)
        database = Database(path)
        try:
            await database.prepare()
        finally:
            await database.close()
        _pack(path)
        return Upgrade(before, newest(), copy)
    finally:
        lock.release()


def _pack(path: Path) -> None:
    """Write the file anew, so that its free pages can be given back from now on."""
    with mapped(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        connection.execute("VACUUM")
