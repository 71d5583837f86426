"""Stores the data on a PostgreSQL server, in a database that several hosts use together.

Each host has a lease: a row with an epoch and an expiry by the server's clock. Every transaction that writes renews it
and names its epoch, so a host that another one declared dead cannot write any more. Nothing depends on the state of a
session, so a connection pooler such as PgBouncer may be in between. If the connection is lost while a transaction
commits, its id tells later whether it was committed.
"""

import importlib.util
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress

from pydantic import SecretStr
from sqlalchemy import URL, Connection, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

from bot.storage.backend import WAKE, Backend, Taken, Unreachable
from bot.storage.identity import OWNER, Identity
from bot.storage.pg_engine import engine_of, unpooled
from bot.storage.pg_errors import Refused, mapped
from bot.storage.schema_version import migrate, version_of
from bot.storage.stop_deadline import StopDeadline
from bot.storage.tables import hosts
from bot.types.errors import ConfigError, StateLocked, StorageError

log = logging.getLogger(__name__)

OLDEST = 13
"""Oldest version of PostgreSQL with all functions that are called here."""

LEASE_S = 15.0
"""How long a lease is valid without a renewal, seconds."""
RENEW_S = 5.0
MARGIN_S = 1.0
"""How long before its end a claim is not relied on any more, seconds."""
POLL_S = 1.0
"""Longest time between two attempts to claim the database, seconds."""

_CONNECTING: Mapping[str, str | int | None] = {
    "application_name": "inhouse",
    "client_encoding": "utf8",
    "connect_timeout": 2,  # seconds; libpq's minimum
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms until an unanswered connection is given up
    "target_session_attrs": "read-write",  # after a failover, the old primary may be a standby
}
"""Parameters of connections that INHOUSE_DATABASE_URL may override."""

CHANNEL = "inhouse"
"""On which hosts are woken."""
COPY = "copy"
"""Name of the lease that marks a database to which a state is being copied."""
_UNFINISHED = text(f"SELECT 1 FROM leases WHERE name = '{COPY}'")
NOW = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
ENDED = f"-{NOW}"
"""The `expires_at` of a host that ends now."""
_LOCK = text("SELECT pg_advisory_xact_lock(7305790184561509236)")  # any number that no other program uses
_CLAIM = text(f"""
    INSERT INTO hosts (name, epoch, expires_at, roles, slots, model, place)
    VALUES (:host, 1, {NOW} + :seconds, '', 0, '', :place)
    ON CONFLICT (name) DO UPDATE
    SET epoch = hosts.epoch + 1, expires_at = excluded.expires_at, place = excluded.place
    RETURNING epoch
""")
_ELSEWHERE = text(f"""
    SELECT expires_at FROM hosts
    WHERE name = :host AND expires_at > {NOW} AND to_jsonb(hosts) ->> 'place' NOT IN ('', :place) FOR UPDATE
""")  # jsonb, since tables of an older version have no such column
UNENDED = text(f"""
    SELECT name, expires_at, expires_at - {NOW} AS seconds FROM hosts WHERE expires_at > 0 ORDER BY name
""")
_FENCE = text(f"UPDATE hosts SET epoch = epoch + 1, expires_at = {ENDED} WHERE name <> :host AND expires_at > 0")
_RENEW = text(f"""
    UPDATE hosts SET expires_at = {NOW} + :seconds WHERE name = :host AND epoch = :epoch
    RETURNING CAST(pg_current_xact_id() AS text), set_config('lock_timeout', '2s', true),
        set_config('idle_in_transaction_session_timeout', '10s', true)
""")  # the settings end with the transaction; a process that is stopped in it must not hold its locks
_RELEASE = text(f"UPDATE hosts SET expires_at = {ENDED} WHERE name = :host AND epoch = :epoch")
_WAKE = text(f"SELECT pg_notify('{CHANNEL}', :host)")
_OUTCOME = text("SELECT pg_xact_status(CAST(:id AS xid8))")


class PostgresqlServer(Backend):
    """The database at `url`.

    identity: of this host. standby: called with the names of the hosts that are alive, whose end this one waits for.
    copying: to copy a state to it, which no host may use then.
    """

    def __init__(
        self,
        url: str,
        identity: Identity,
        readers: int,
        *,
        standby: Callable[[str], None] | None = None,
        copying: bool = False,
    ) -> None:
        self.url = driver_url(url)
        super().__init__(name_of(self.url))
        self.host = identity.name
        self._standby, self._copying = standby, copying
        self._held_until = 0.0  # on the clock of `_clock`
        self._seen: dict[str, float] = {}  # the expiry of each other host's lease at an attempt
        self._answers_since: float | None = None  # on the same clock; since when the server has answered attempts
        self._elsewhere: float | None = None  # the expiry of the lease that this host had elsewhere, at an attempt
        self._lease: dict[str, str | int | float] = {
            "host": identity.name,
            "place": identity.place,
            "epoch": 0,
            "seconds": LEASE_S,
        }
        self._stop_deadline = StopDeadline(self.name)
        self._writing = self._stop_deadline.watch(engine_of(self.url, pool_size=1))
        self._reading = self._stop_deadline.watch(engine_of(self.url, pool_size=readers)).execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    def mapped(self) -> AbstractContextManager[None]:
        """Map errors in the block to StorageError."""
        return mapped(self.name)

    def create(self) -> None:
        """Check the server. Raises ConfigError if it refuses the connection, is too old or cannot hold all texts."""
        with self._at_start() as connection:
            check_server(connection, self.name)

    def claim(self) -> float | None:
        """Take the lease of this host, and migrate the schema; returns the seconds until the next attempt, or None.

        Waits while the lease lasts that this host had elsewhere, and a standby until no other host is alive. Raises
        StateLocked once the lease is renewed elsewhere since an attempt, so a copy of the state directory is in use;
        for a copy of the database, once any other host has renewed its lease.
        """
        try:
            return self._claimed()
        except Unreachable:
            self._answers_since = None
            if not self._seen:
                raise
            return POLL_S

    def _claimed(self) -> float | None:
        began = _clock()
        with self._at_start() as connection:
            connection.execute(_LOCK)  # several hosts may start at once
            if not inspect(connection).has_table(hosts.name):
                migrate(connection, self.name)
            if self._is_elsewhere(connection):
                return POLL_S
            if self._standby is not None or self._copying:
                self._answers_since = self._answers_since or began
                unended = {row.name: row for row in connection.execute(UNENDED) if row.name != self.host}
                alive = {name: row.expires_at for name, row in unended.items() if row.seconds > 0}
                if alive:
                    self._wait_for(alive)
                if alive or (unended and began - self._answers_since < watched_s()):
                    return POLL_S
                connection.execute(_FENCE, self._lease)
            migrate(connection, self.name)
            if not self._copying and connection.execute(_UNFINISHED).one_or_none():
                raise ConfigError(
                    f"The database {self.name} has an unfinished copy: finish it with `inhouse db copy`, or name "
                    "another database in INHOUSE_DATABASE_URL."
                )
            epoch = connection.execute(_CLAIM, self._lease).scalar_one()
        self._lease["epoch"], self._held_until = int(epoch), began + LEASE_S - MARGIN_S
        return None

    def _is_elsewhere(self, connection: Connection) -> bool:
        """Whether the lease has not expired that this host has from another place."""
        expiry = connection.execute(_ELSEWHERE, self._lease).scalar_one_or_none()
        if expiry is not None and self._elsewhere is None:
            log.info("%s was alive elsewhere a moment ago; waiting for the end of its lease.", self.host)
        elif expiry is not None and expiry != self._elsewhere:
            raise StateLocked(
                f"The host {self.host} is running, and this state directory is a copy of that one's: delete the file "
                f"'{OWNER}' in INHOUSE_STATE_DIR here, so that this host gets a name of its own, and start it again."
            )
        self._elsewhere = expiry
        return expiry is not None

    def _wait_for(self, alive: dict[str, float]) -> None:
        names = ", ".join(alive)
        if self._standby is not None:
            self._standby(names)
        elif any(name in self._seen and expiry != self._seen[name] for name, expiry in alive.items()):
            raise StateLocked(
                f"The database {self.name} is in use by another Inhouse ({names}): stop that one, or name another "
                "database in INHOUSE_DATABASE_URL."
            )
        self._seen = alive

    @contextmanager
    def _at_start(self) -> Iterator[Connection]:
        """A transaction on a connection of its own, with errors of the configuration as ConfigError."""
        engine = self._stop_deadline.watch(unpooled(self.url))
        try:
            with self.mapped(), self._stop_deadline.transaction(), engine.begin() as connection:
                yield connection
        except Refused as error:
            raise ConfigError(str(error)) from error
        finally:
            engine.dispose()

    def check(self, connection: Connection) -> None:
        """The server checks its pages itself."""

    def migrate(self, connection: Connection) -> None:
        """`claim` has migrated the schema."""

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that reads one snapshot."""
        with self._stop_deadline.transaction(), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes, and renews the lease. Raises Taken if another host declared this one dead."""
        began = _clock()
        with self._stop_deadline.transaction(), self._writing.connect() as connection:
            transaction = connection.begin()
            try:
                found = connection.execute(_RENEW, self._lease).one_or_none()
                if found is None:
                    self.taken = (
                        f"This host did not renew its lease on the database {self.name} for {LEASE_S:.0f} s, so "
                        "another one has taken over its answers: this one ends, and starts anew under systemd."
                    )
                    raise Taken(self.taken)
                yield connection
                if connection.info.pop(WAKE, False) and self.has_others:
                    connection.execute(_WAKE, self._lease)
            except BaseException:
                transaction.rollback()
                raise
            try:
                transaction.commit()
            except DBAPIError as error:
                if not error.connection_invalidated or not self._is_committed(found[0]):
                    raise
        self._held_until = began + LEASE_S - MARGIN_S

    def _is_committed(self, transaction: str) -> bool:
        """Ask the server, once it answers again, what became of a transaction."""
        attempt = 1
        while True:
            outcome, problem = "in progress", Unreachable(f"The database {self.name} was lost during a commit.")
            try:
                with self.mapped(), self.reading() as connection:
                    outcome = connection.execute(_OUTCOME, {"id": transaction}).scalar_one()
            except Unreachable as error:
                problem = error
            except StorageError:  # a server that took the place of the lost one does not know the id
                return False
            if outcome != "in progress":
                return bool(outcome == "committed")
            if not self.outage.wait(attempt, problem):
                raise StorageError(f"The database {self.name} was lost during a commit, and Inhouse is stopping.")
            attempt += 1

    def can_go_on(self, connection: Connection) -> bool:
        """False if the connection is lost."""
        return not connection.invalidated

    def erase_log(self) -> bool:
        """The server's log is the operator's: SECURITY.md says what stays in it."""
        return False

    def trim(self, connection: Connection) -> bool:
        """The server's autovacuum does that."""
        return False

    def holds_claim(self) -> bool:
        """Whether the last renewal began less than a lease ago, less MARGIN_S."""
        return _clock() < self._held_until

    def renew(self) -> float:
        """Seconds between two renewals."""
        return RENEW_S

    def stop_waiting(self) -> None:
        """Let calls fail at once from now on, also while the server accepts connections and never answers."""
        super().stop_waiting()
        self._stop_deadline.stop()

    def close(self) -> None:
        """End the lease, if the server answers, and close all connections. Raises StorageError if not."""
        if self._lease["epoch"]:
            limit = self._stop_deadline.transaction
            with suppress(StorageError), self.mapped(), limit(), self._writing.begin() as connection:
                connection.execute(_RELEASE, self._lease)
                if self.has_others:
                    connection.execute(_WAKE, self._lease)
        self._stop_deadline.close()
        self._writing.dispose()
        self._reading.dispose()
        if self._stop_deadline.passed:
            raise StorageError(
                f"The database {self.name} did not answer while Inhouse stopped, so the end of this run is not stored; "
                "the next start goes on from what is. Check the server."
            )


def renewed_s() -> float:
    """The least seconds that a lease has left while its host renews it in time."""
    return LEASE_S - RENEW_S


def watched_s() -> float:
    """How long the database must have answered before a lease without a renewal means that its host is dead, seconds.

    After an outage all leases have expired, and each host needs a moment to renew its own.
    """
    return LEASE_S / 3


def _clock() -> float:
    """Monotonic seconds that also pass while the machine is suspended, where the system has such a clock."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def driver_url(url: str) -> URL:
    """The URL with the driver, and with our parameters of connections. Raises ConfigError without the driver."""
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError(
            "INHOUSE_DATABASE_URL needs PostgreSQL's driver: install it with `pip install 'inhouse[postgres]'`, or "
            "remove the setting to keep conversations in a file."
        )
    parsed = make_url(url)
    more = {name: str(value) for name, value in _CONNECTING.items() if name not in parsed.query}
    return parsed.set(drivername="postgresql+psycopg").update_query_dict(more)


def name_of(url: URL) -> str:
    """The name of a database in sentences, without user and password: 'inhouse on db.example.org:5432'."""
    hosts = url.query.get("host", url.host or "this machine")
    place = hosts if isinstance(hosts, str) else ", ".join(hosts)
    return f"{url.database or url.username or ''} on {place}{f':{url.port}' if url.port else ''}"


def dump_command(url: SecretStr) -> str:
    """The command that backs a database up, without the password."""
    parsed = make_url(url.get_secret_value())
    host = parsed.host or parsed.query.get("host")
    options = {"dbname": parsed.database, "host": host, "port": parsed.port, "username": parsed.username}
    words = [f"--{name}={value}" for name, value in options.items() if value]
    return shlex.join(["pg_dump", "--format=custom", *words])


@contextmanager
def open_server(url: str) -> Iterator[Connection]:
    """Open a connection for reading, outside of transactions. Raises ConfigError if the schema's version is unknown."""
    parsed = driver_url(url)
    engine, name = unpooled(parsed).execution_options(isolation_level="AUTOCOMMIT"), name_of(parsed)
    try:
        with mapped(name), engine.connect() as connection:
            if not version_of(connection, name):
                raise ConfigError(f"The database {name} is empty: run `inhouse run` once, or name the right one.")
            yield connection
    except Refused as error:
        raise ConfigError(str(error)) from error


def check_server(connection: Connection, name: str) -> None:
    """Raise ConfigError if the server is too old, or if the database cannot hold all texts."""
    version = connection.dialect.server_version_info or (0,)
    if int(version[0]) < OLDEST:
        found = ".".join(map(str, version))
        raise ConfigError(
            f"The database {name} is of PostgreSQL {found}: Inhouse needs version {OLDEST} or newer, so upgrade it."
        )
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise ConfigError(
            f"The database {name} has the encoding {encoding}, which cannot hold all letters: create one with "
            "`createdb --encoding UTF8 --template template0`."
        )
