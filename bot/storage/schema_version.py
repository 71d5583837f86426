"""Detects the schema version of a database, checks that its tables match it, and migrates to the newest version.

A version is the id of a migration, '' for an empty file. A database that matches no known version is not changed.
"""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect

from bot.types.errors import StateFromElsewhere

_MIGRATIONS = Path(__file__).parent / "migrations"
_ANEW = {
    "sqlite": "move it away with the files beside it that start with its name",
    "postgresql": "name an empty database in INHOUSE_DATABASE_URL",
}


@cache
def newest() -> str:
    """The version that this code needs."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head() or ""


@cache
def known_versions() -> frozenset[str]:
    """Versions that this code can migrate from, except ''."""
    return frozenset({script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()})


def recorded(connection: Connection) -> str:
    """The version that a database records; several are joined by '+'."""
    return "+".join(sorted(map(str, MigrationContext.configure(connection).get_current_heads())))


def version_of(connection: Connection, name: str) -> str:
    """Detect the version of a database; `name` is for the error.

    Raises StateFromElsewhere if the version is unknown or the tables do not match it.
    """
    version = recorded(connection)
    known = known_versions()
    if version and version not in known:
        raise StateFromElsewhere(
            f"The database {name} was made by another version of Inhouse: its schema is of version {version}, and "
            f"this one knows up to {max(known)}; install that version or a newer one, or restore an older backup."
        )
    expected, found = _tables_of(version), _tables(connection)
    ours = expected.keys() | _tables_of(newest()).keys()
    wrong = sorted(name for name in ours if found.get(name) != expected.get(name))
    if wrong:
        stated = f"version {version}" if version else "an empty database"
        raise StateFromElsewhere(
            f"The database {name} states {stated}, but its tables {', '.join(wrong)} do not match: it was copied or "
            f"restored only in part; restore a whole backup in its place, or {_ANEW[connection.dialect.name]}, to "
            "start with an empty history."
        )
    return version


def migrate(connection: Connection, name: str) -> None:
    """Migrate to the newest version, inside a transaction. Raises StateFromElsewhere."""
    if version_of(connection, name) == newest():
        return
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def alembic_config() -> Config:
    """Return Alembic's configuration for our migrations."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@cache
def _tables_of(version: str) -> dict[str, frozenset[str]]:
    """Columns by table for a version, from running the migrations on an empty database."""
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            if version:
                config = alembic_config()
                config.attributes["connection"] = connection
                command.upgrade(config, version)
            return _tables(connection)
    finally:
        engine.dispose()


def _tables(connection: Connection) -> dict[str, frozenset[str]]:
    found = inspect(connection).get_multi_columns()  # one query on a server
    return {
        name: frozenset(column["name"] for column in columns)
        for (_, name), columns in found.items()
        if name != "alembic_version"
    }
