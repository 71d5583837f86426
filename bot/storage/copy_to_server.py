"""Copies the state in a file to an empty database on a PostgreSQL server, and compares the two.

An interrupted copy is continued by the next one: a row in the database names the state that is being copied, and a
service refuses to start on it. The file stays as it is.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import ColumnElement, Connection, Row, Table, Text, and_, delete, func, insert, select, text, tuple_

from bot.storage.backend import Backend
from bot.storage.identity import identity_of
from bot.storage.lock import StateLock
from bot.storage.pg_engine import storable_value
from bot.storage.postgresql import COPY, PostgresqlServer
from bot.storage.readonly import database_in
from bot.storage.sqlite import SqliteFile
from bot.storage.tables import hosts, leases, metadata, pictures
from bot.types.errors import ConfigError, StorageError

BATCH_ROWS = 500
BATCH_PICTURES = 10
"""Rows that are copied in one transaction; a picture takes up to a megabyte."""

_OF_HOSTS = (hosts, leases)
"""Tables about running hosts, which are not copied."""

Progress = Callable[[int, int], None]
"""Called with the number of rows that were copied and compared, and their total."""


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """rows: number of rows, the same in both databases. copied: how many of them this copy wrote."""

    name: str
    rows: int
    copied: int


def copy_to_server(directory: Path, url: SecretStr, progress: Progress) -> list[CopiedTable]:
    """Copy the database of a state directory to the one at `url`, or continue to.

    Raises ConfigError if the state is missing or in use, or if the target has anything else in it; StorageError.
    """
    path = database_in(directory)
    lock = StateLock(directory)
    try:
        source, identity = SqliteFile(path, connections=1), identity_of(directory)
        target = PostgresqlServer(url.get_secret_value(), identity, readers=1, copying=True)
        try:
            return _copied(source, target, identity.name, progress)
        finally:
            source.close()
            target.close()
    finally:
        lock.release()


def _copied(source: Backend, target: Backend, owner: str, progress: Progress) -> list[CopiedTable]:
    with source.mapped(), source.writing() as connection:
        source.migrate(connection)
    target.create()
    while (pause := target.claim()) is not None:
        time.sleep(pause)
    with target.mapped(), target.writing() as connection:
        _begin(connection, target.name, owner)
    tables = [table for table in metadata.sorted_tables if table not in _OF_HOSTS]  # referenced ones first
    with source.mapped(), source.reading() as reading:
        totals = {table.name: _count(reading, table) for table in tables}
        done, total = 0, 2 * sum(totals.values())
        found = []
        for table in tables:
            copied = 0
            for rows in _missing(reading, target, table):
                with target.mapped(), target.writing() as connection:
                    connection.execute(insert(table), rows)
                copied += len(rows)
                progress(done + copied, total)
            done += totals[table.name]
            found.append(CopiedTable(table.name, totals[table.name], copied))
        for table in tables:
            _compare(reading, target, table)
            done += totals[table.name]
            progress(done, total)
    with target.mapped(), target.writing() as connection:
        _end(connection, tables)
    return found


def _begin(connection: Connection, name: str, owner: str) -> None:
    """Mark the target as being copied to. Raises ConfigError if it is not empty, unless an earlier copy filled it."""
    begun = connection.execute(select(leases.c.owner).where(leases.c.name == COPY)).scalar_one_or_none()
    if begun == owner:
        return
    if begun is not None:
        raise ConfigError(
            f"The database {name} has an unfinished copy of another state ({begun}): finish that one, or name an empty "
            "database in INHOUSE_DATABASE_URL."
        )
    used = [table.name for table in metadata.sorted_tables if table not in _OF_HOSTS and _count(connection, table)]
    if used:
        raise ConfigError(
            f"The database {name} has rows already, in {', '.join(used)}: name an empty database in "
            "INHOUSE_DATABASE_URL."
        )
    connection.execute(insert(leases).values(name=COPY, owner=owner, epoch=0, expires_at=0.0))


def _end(connection: Connection, tables: Sequence[Table]) -> None:
    """Remove the mark, and let new ids follow those that were copied."""
    for table in tables:
        if "id" in table.columns:
            sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
            highest = f"(SELECT coalesce(max(id), 0) + 1 FROM {table.name})"
            connection.execute(text(f"SELECT setval({sequence}, {highest}, false)"))
    connection.execute(delete(leases).where(leases.c.name == COPY))


def _missing(reading: Connection, target: Backend, table: Table) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows that come after the last one of the target, in batches."""
    key = list(table.primary_key.columns)
    with target.mapped(), target.reading() as connection:
        in_bytes = [column.collate("C") if isinstance(column.type, Text) else column for column in key]  # as SQLite
        found = connection.execute(select(*key).order_by(*(each.desc() for each in in_bytes)).limit(1)).one_or_none()
    after = None if found is None else tuple(found)
    most = BATCH_PICTURES if table is pictures else BATCH_ROWS
    while True:
        which: ColumnElement[bool] = and_(True) if after is None else tuple_(*key) > tuple_(*after)
        rows = reading.execute(select(table).where(which).order_by(*key).limit(most)).mappings().all()
        if rows:
            yield [dict(row) for row in rows]
            after = tuple(rows[-1][column.name] for column in key)
        if len(rows) < most:
            return


def _compare(reading: Connection, target: Backend, table: Table) -> None:
    """Raise StorageError if the two tables do not have the same rows."""
    with target.mapped(), target.reading() as connection:
        same = _checksum(reading, table) == _checksum(connection, table)
    if not same:
        raise StorageError(
            f"The table {table.name} of {target.name} differs from the file's: empty that database and copy again."
        )


def _checksum(connection: Connection, table: Table) -> tuple[int, int]:
    """The number of rows, and the sum of their hashes, which does not depend on their order."""
    number = total = 0
    found = connection.execution_options(stream_results=True).execute(select(table))
    for row in found.yield_per(BATCH_PICTURES if table is pictures else BATCH_ROWS):
        number += 1
        total += int.from_bytes(hashlib.blake2b(_bytes(row), digest_size=16).digest(), "big")
    return number, total % (1 << 128)


def _bytes(row: Row[Any]) -> bytes:
    return repr(tuple(storable_value(value) for value in row)).encode()


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()
