"""The database that a test is parametrized with: a file, or one on a server for each state directory."""

from pathlib import Path

from pydantic import SecretStr

from bot.storage.pg_engine import unpooled
from bot.storage.postgresql import driver_url
from bot.storage.schema_version import migrate
from tests.support.postgresql import PostgresqlProcess


class ChosenDatabase:
    """Where the test that runs keeps its states: in files, or on `server`."""

    def __init__(self) -> None:
        self.server: PostgresqlProcess | None = None
        self._urls: dict[Path, SecretStr] = {}
        self._templates: dict[PostgresqlProcess, str] = {}

    def choose(self, server: PostgresqlProcess | None) -> None:
        """Forgets all states, and drops their databases."""
        if self.server is not None:
            for url in self._urls.values():
                self.server.drop(url)
        self.server = server
        self._urls.clear()

    def url(self, directory: Path, *, empty: bool = False) -> SecretStr | None:
        """The database of a state directory, created if needed, with tables unless `empty`; None for a file."""
        if self.server is None:
            return None
        if directory not in self._urls:
            self._urls[directory] = (
                self.server.new_database() if empty else self.server.new_database(self._template(self.server))
            )
        return self._urls[directory]

    def _template(self, server: PostgresqlProcess) -> str:
        """A database with the newest schema; a copy takes less time than the migrations."""
        if server not in self._templates:
            url = server.new_database()
            engine = unpooled(driver_url(url.get_secret_value()))
            with engine.begin() as connection:
                migrate(connection, "template")
            self._templates[server] = str(connection.engine.url.database)
        return self._templates[server]


CHOSEN = ChosenDatabase()
