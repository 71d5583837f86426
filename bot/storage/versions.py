"""The versions of the tables: which one a database has, which ones this code knows, and the way to the newest.

In: a connection. Out: versions, which are the names of migrations ('' for an empty file), or a database with the newest
tables. Promise: a database of a version that is not known here is not touched.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from bot.errors import StateFromElsewhere

_MIGRATIONS = Path(__file__).parent / "migrations"


def newest() -> str:
    """The version that this code works with."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def known_versions() -> set[str]:
    """The versions that this code can bring to the newest, but for ''."""
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def recorded(connection: Connection) -> str:
    """The version that a database says it has."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def version_of(connection: Connection, path: Path) -> str:
    """The version of a database; `path` is where it is. Raises StateFromElsewhere if this code does not know it."""
    version = recorded(connection)
    known = known_versions()
    if version and version not in known:
        raise StateFromElsewhere(
            f"The database {path} was made by another version of Inhouse: its tables are of version {version}, and "
            f"this one knows them up to {max(known)}; install that version or a newer one, or restore an older backup."
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
