"""Inspects a database on a PostgreSQL server, also while a service uses it; changes nothing."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy import text

from bot.storage.pg_engine import unpooled
from bot.storage.pg_errors import mapped
from bot.storage.postgresql import NOW, check_server, driver_url, name_of
from bot.storage.schema_version import newest, version_of
from bot.types.errors import StateFromElsewhere

TRIES = 5

_ABOUT = text("""
    SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS bytes,
        CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS clock,
        coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS can_create
""")


_ALIVE = text(f"SELECT name, place, models, settings FROM hosts WHERE expires_at > {NOW} ORDER BY name")


@dataclass(frozen=True, slots=True)
class LiveHost:
    """A host that uses the database; place: of its state directory, '' if not known. models: that it can load.

    settings: hashes of those that should be the same on all hosts, by variable.
    """

    name: str
    place: str
    models: frozenset[str]
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServerInspection:
    """latency_ms: median of TRIES round trips. clock_s: how far the server's clock is ahead of this one's.

    can_create: the user may create tables. schema: its version, '' for an empty database; mismatch: the error of the
    version, '' if there is none. hosts: those that use it.
    """

    name: str
    version: str
    bytes: int
    latency_ms: float
    clock_s: float
    can_create: bool
    schema: str
    newest: bool
    mismatch: str
    hosts: tuple[LiveHost, ...]


def inspect_server(url: SecretStr) -> ServerInspection:
    """Inspect the database at `url`. Raises ConfigError and StorageError."""
    parsed = driver_url(url.get_secret_value())
    name, engine = name_of(parsed), unpooled(parsed).execution_options(isolation_level="AUTOCOMMIT")
    with mapped(name), engine.connect() as connection:
        check_server(connection, name)
        taken = []
        for _ in range(TRIES):
            began = time.perf_counter()
            about = connection.execute(_ABOUT).one()
            taken.append(time.perf_counter() - began)
        clock_s = about.clock - time.time()
        schema, mismatch, hosts = "", "", tuple[LiveHost, ...]()
        try:
            schema = version_of(connection, name)
        except StateFromElsewhere as error:
            mismatch = str(error)
        if schema == newest():
            hosts = tuple(
                LiveHost(row.name, row.place, frozenset(row.models.splitlines()), json.loads(row.settings or "{}"))
                for row in connection.execute(_ALIVE)
            )
    return ServerInspection(
        name=name,
        version=about.version.split()[0],
        bytes=about.bytes,
        latency_ms=sorted(taken)[TRIES // 2] * 1000,
        clock_s=clock_s,
        can_create=about.can_create,
        schema=schema,
        newest=schema == newest(),
        mismatch=mismatch,
        hosts=hosts,
    )
