"""Simulates faults between the service and its PostgreSQL server: connections that break at any statement or commit.

The server ends the connection, so the driver and the server themselves make the error.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

from pydantic import SecretStr
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import QueuePool

from bot.storage.identity import OWNER
from tests.support.builders.storage_rows import listening
from tests.support.postgresql import PostgresqlProcess
from tests.support.state_machine.faulty_disk import WRITES, Disk, Stored

BREAKS = 0.01
"""Share of all statements and commits at which the connection breaks."""
CALM = 300
"""Statements after such a break without another one: many events at once are tried once more, and succeed then."""
LONGEST = 10
"""Most times that a planned fault happens, about five seconds of an outage, which a start of the service waits out."""


class FaultyServer(Disk):
    """Holds the planned faults of one empty database."""

    def __init__(self, server: PostgresqlProcess) -> None:
        super().__init__()
        self._server, self._chance, self._calm = server, Random(0), 0
        self.url: SecretStr = server.new_database()

    def fails(self, what: str, after: int, times: int) -> None:
        """Plans a fault, which ends by itself."""
        super().fails(what, after, min(times, LONGEST))

    def lock(self, path: Path) -> None:
        """Does nothing: a lock of another program is waited out like on SQLite."""

    @contextmanager
    def under(self) -> Iterator[None]:
        """Lets connections to the server break, until the block ends."""
        with ExitStack() as stack:
            stack.enter_context(listening(Engine, "before_cursor_execute", self._statement))
            stack.enter_context(listening(Engine, "commit", self._commit))
            stack.callback(self.heal)
            yield

    def copy(self, old: Path, new: Path, *, powerless: bool) -> None:
        """Takes the lease from the service that is killed, so that it can write nothing from this moment on."""
        new.mkdir(parents=True)
        if (old / OWNER).exists():  # the next service is the same host, in the same place
            (new / OWNER).hardlink_to(old / OWNER)
        with suppress(ProgrammingError):  # there are no tables yet
            self._server.execute("UPDATE hosts SET epoch = epoch + 1", self.url)

    def rows(self, directory: Path, query: str) -> Sequence[Stored]:
        """The rows of a query; none before the tables exist."""
        try:
            return self._server.mappings(query, self.url)
        except ProgrammingError as error:
            if "does not exist" in str(error):
                return []
            raise

    def _is_struck(self, what: str) -> bool:
        """Also breaks some connections that no rule has planned, which nobody may notice."""
        self._calm -= 1
        if self._calm < 0 and self._chance.random() < BREAKS:
            self._calm = CALM
            self.struck += 1
            return True
        return super()._is_struck(what)

    def _statement(self, connection: Connection, cursor: object, statement: str, *_: object) -> None:
        what = "write" if statement.startswith(WRITES) else "read"
        if _is_ours(connection) and statement.startswith((*WRITES, "SELECT")) and self._is_struck(what):
            self._end(connection)

    def _commit(self, connection: Connection) -> None:
        if not _is_ours(connection) or connection.get_execution_options().get("postgresql_readonly"):
            return
        if self._is_struck("commit"):
            if self._chance.random() < 0.5:
                connection.exec_driver_sql("COMMIT")  # only its answer is lost
            self._end(connection)
            connection.exec_driver_sql("VALUES (1)")  # raises the driver's error of a lost connection

    def _end(self, connection: Connection) -> None:
        """Has the server end the connection."""
        driver = connection.connection.driver_connection
        assert driver is not None
        self._server.execute(f"SELECT pg_terminate_backend({driver.info.backend_pid}, 1000)")


def _is_ours(connection: Connection) -> bool:
    """Whether the service uses it for a transaction; not a test, and not the start of the service."""
    return isinstance(connection.engine.pool, QueuePool) and connection.dialect.name == "postgresql"
