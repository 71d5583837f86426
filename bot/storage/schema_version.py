"""Tell the version of a database's tables, check that the tables are those of that version, and migrate to the newest.

A version is the name of a migration, '' for an empty file. A database that does not fit a known version is not changed.
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


def newest() -> str:
    """The version that this code works with."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def known_versions() -> set[str]:
    """The versions that this code can bring to the newest, but for ''."""
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def recorded(connection: Connection) -> str:
    """The version that a database says it has; several, if it says so, joined by '+'."""
    return "+".join(sorted(map(str, MigrationContext.configure(connection).get_current_heads())))


def version_of(connection: Connection, path: Path) -> str:
    """The version of a database; `path` is where it is.

    Raises StateFromElsewhere if this code does not know it, or if the tables are those of another one.
    """
    version = recorded(connection)
    known = known_versions()
    if version and version not in known:
        raise StateFromElsewhere(
            f"The database {path} was made by another version of Inhouse: its tables are of version {version}, and "
            f"this one knows them up to {max(known)}; install that version or a newer one, or restore an older backup."
        )
    expected, found = _tables_of(version), _tables(connection)
    ours = expected.keys() | _tables_of(newest()).keys()
    wrong = sorted(name for name in ours if found.get(name) != expected.get(name))
    if wrong:
        says = f"its tables are of version {version}" if version else "it is empty"
        raise StateFromElsewhere(
            f"The database {path} says that {says}, and {', '.join(wrong)} in it does not fit that: it was copied or "
            "restored only in part; restore a whole backup in its place, or move it away together with the files that "
            "start with its name, which starts again with an empty history."
        )
    return version


def migrate(connection: Connection, path: Path) -> None:
    """Bring the tables up to date, inside a transaction. Raises StateFromElsewhere."""
    if version_of(connection, path) == newest():
        return
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


@cache
def _tables_of(version: str) -> dict[str, frozenset[str]]:
    """The columns of each table in a database of a version: what the migrations make of an empty one."""
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            if version:
                config = _config()
                config.attributes["connection"] = connection
                command.upgrade(config, version)
            return _tables(connection)
    finally:
        engine.dispose()


def _tables(connection: Connection) -> dict[str, frozenset[str]]:
    inspector = inspect(connection)
    return {
        name: frozenset(column["name"] for column in inspector.get_columns(name))
        for name in inspector.get_table_names()
        if name != "alembic_version"
    }
