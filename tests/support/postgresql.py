"""Runs a PostgreSQL server in a temporary directory, on a Unix socket. `tests/install_postgresql.sh` installs it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine, make_url
from sqlalchemy.exc import OperationalError

from bot.storage.postgresql import driver_url
from tests.support.fakes.tls import Authority

PATIENCE_S = 30.0
USER = "postgres"
REPLICA = "replica"
"""Name of a replica in its primary's settings."""
MEMORY = Path("/dev/shm")
"""A place where thousands of files are made and removed at once, if the system has one."""
FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
"""Settings of a server that need not survive a power loss."""
SETTINGS = ("shared_buffers=16MB", "max_connections=60", "log_statement=none")
HBA = "local all guarded scram-sha-256\nlocal all,replication all trust\nhost all all samenet trust\n"
"""Only the user `guarded` needs a password."""


def programs() -> Path | None:
    """The directory of the newest installed server's programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


def is_installed() -> bool:
    """Whether a server and the driver are installed."""
    return programs() is not None and find_spec("psycopg") is not None


class PostgresqlProcess:
    """A server, in memory if there is a place for it. With `safe`, what it committed survives a power loss.

    address: listens on TCP there, too; encrypted, on a free port and with a certificate of `authority`, if given.
    """

    def __init__(self, *, safe: bool = False, address: str = "", authority: Authority | None = None) -> None:
        self.address = address
        fast = not safe and os.access(MEMORY, os.W_OK)
        self.directory = Path(tempfile.mkdtemp(prefix="inhouse-pg-", dir=MEMORY if fast else None))
        self._settings = (*SETTINGS, f"listen_addresses={address}", *(() if safe else FAST))
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self.port = 0
        self._as_user = []
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(self.directory, USER, USER)
            self._as_user = ["--reuid", USER, "--regid", USER, "--clear-groups"]
        self._create()
        if authority is not None:
            self._settings = (*self._settings, *self._encrypted(authority))
            (self.directory / "data/pg_hba.conf").write_text(HBA.replace("\nhost ", "\nhostssl "))

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = [word for each in self._settings for word in ("-c", each)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", "data", "-k", str(self.directory), *options),
                cwd=self.directory,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must not end it before its clients
            )
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.execute("SELECT 1")
                return
            except OperationalError:
                if time.monotonic() > end:
                    raise AssertionError((self.directory / "log").read_text("utf-8", "replace")) from None
                time.sleep(0.02)

    def _create(self) -> None:
        self._run(
            *("initdb", "--pgdata", "data", "--username", USER, "--auth", "trust", "--no-sync", "--encoding", "UTF8"),
            *("--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US"),  # as most servers sort
        )
        (self.directory / "data/pg_hba.conf").write_text(HBA)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the server."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops the server. SIGINT: it ends its sessions; SIGQUIT: at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE_S)
            self._process = None

    def close(self) -> None:
        """Stops the server and removes its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory)

    def url(self, database: str = USER, user: str = USER, password: str = "") -> SecretStr:
        """The value of INHOUSE_DATABASE_URL for a database."""
        port = f"&port={self.port}" if self.port else ""
        login = f"{user}:{password}" if password else user
        return SecretStr(f"postgresql://{login}@/{database}?host={self.directory}{port}")

    @property
    def socket(self) -> Path:
        """The Unix socket on which the server listens."""
        return self.directory / ".s.PGSQL.5432"

    def drop(self, url: SecretStr) -> None:
        """Drops a database, also one that is in use."""
        self.execute(f"DROP DATABASE {make_url(url.get_secret_value()).database} WITH (FORCE)")

    def new_database(self, template: str = "template0") -> SecretStr:
        """Creates a database, empty or as a copy of another one; returns its URL."""
        self._databases += 1
        name = f"test{self._databases}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)

    def execute(self, statement: str, url: SecretStr | None = None) -> list[tuple[object, ...]]:
        """Executes a statement outside of a transaction; returns its rows."""
        return [tuple(row.values()) for row in self.mappings(statement, url or self.url())]

    def mappings(self, statement: str, url: SecretStr) -> list[dict[str, object]]:
        """Executes a statement outside of a transaction; returns its rows by the names of their columns."""
        engine = create_engine(driver_url(url.get_secret_value()), poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            done = connection.exec_driver_sql(statement.replace("%", "%%"))
            return [dict(row) for row in done.mappings()] if done.returns_rows else []

    def _encrypted(self, authority: Authority) -> list[str]:
        """Settings of a server that listens on a free port, which stands in its Unix socket's name, too."""
        certificate, key = self.directory / "server.pem", self.directory / "server.key"
        authority.write_server(certificate, key)
        if self._as_user:
            shutil.chown(key, USER, USER)
        with socket.socket() as free:
            free.bind((self.address, 0))
            self.port = free.getsockname()[1]
        return [
            f"port={self.port}",
            "ssl=on",
            f"ssl_cert_file={certificate}",
            f"ssl_key_file={key}",
        ]

    def _run(self, *command: str) -> None:
        subprocess.run(self._command(*command), cwd=self.directory, check=True, capture_output=True, timeout=PATIENCE_S)

    def _command(self, program: str, *words: str) -> list[str]:
        directory = programs()
        assert directory is not None, "there is no PostgreSQL; run tests/install_postgresql.sh"
        prefix = ["setpriv", *self._as_user, "--pdeathsig", "QUIT"] if sys.platform == "linux" else []
        return [*prefix, str(directory / program), *words]


class PostgresqlReplica(PostgresqlProcess):
    """A synchronous replica of a server that runs, until `promote`."""

    def __init__(self, primary: PostgresqlProcess, *, address: str = "") -> None:
        self._primary = primary
        super().__init__(safe=True, address=address)

    def start(self) -> None:
        """Starts it, and lets commits on the primary wait for it from now on."""
        super().start()
        self._primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{REPLICA}'")  # not before it is copied
        self._primary.execute("SELECT pg_reload_conf()")
        end = time.monotonic() + PATIENCE_S
        while self._primary.execute("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
            assert time.monotonic() < end, "it does not replicate"
            time.sleep(0.02)

    def promote(self) -> None:
        """Makes it the primary, and waits until it is."""
        assert self.execute("SELECT pg_promote()") == [(True,)]

    def url(self, database: str = USER, user: str = USER, password: str = "") -> SecretStr:
        """Also accepts sessions while it is a replica."""
        return SecretStr(f"{super().url(database, user, password).get_secret_value()}&target_session_attrs=any")

    def _create(self) -> None:
        where = f"host={self._primary.directory} user={USER} application_name={REPLICA}"
        self._run(
            "pg_basebackup", "--pgdata", "data", "--write-recovery-conf", "--checkpoint", "fast", "--dbname", where
        )
