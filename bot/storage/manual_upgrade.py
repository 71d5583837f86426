"""Migrates a database that is not in use to the newest version and compacts it, after a backup beside it."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from bot.storage.backup import Progress, back_up
from bot.storage.database import READERS, Database
from bot.storage.db_errors import mapped
from bot.storage.lock import StateLock
from bot.storage.open_storage import Storage
from bot.storage.postgresql import open_server
from bot.storage.readonly import database_in, open_read_only
from bot.storage.schema_version import newest, version_of
from bot.storage.sqlite import INCREMENTAL, SqliteFile


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Versions before and after; `copy` is the backup, None if there was nothing to do or a server has the database."""

    before: str
    after: str
    copy: Path | None


async def upgrade(directory: Path, progress: Progress, url: SecretStr | None = None) -> Upgrade:
    """Migrate the database of a state directory, or the one at `url`, of which no backup is made.

    Raises ConfigError (no database, unknown version, or in use by another process), StorageError.
    """
    if url is not None:
        with open_server(url.get_secret_value()) as connection:
            before = version_of(connection, "")
        await (await Storage.open(directory, url)).close()
        return Upgrade(before, newest(), None)
    path = database_in(directory)
    lock = StateLock(directory)
    try:
        with open_read_only(directory) as connection:
            before = version_of(connection, str(path))
            packed = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() == INCREMENTAL
        if before == newest() and packed:
            return Upgrade(before, before, None)
        copy = path.with_name(f"{path.name}.{before or 'empty'}.{time.strftime('%Y%m%d-%H%M%S')}")
        back_up(directory, copy, progress)
        database = Database(SqliteFile(path, connections=READERS + 1))
        try:
            await database.prepare()
        finally:
            await database.close()
        _pack(path)
        return Upgrade(before, newest(), copy)
    finally:
        lock.release()


def _pack(path: Path) -> None:
    """Rewrite the file with incremental vacuum enabled."""
    with mapped(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        connection.execute("VACUUM")
