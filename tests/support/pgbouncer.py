"""Runs PgBouncer in transaction mode in front of a server. `tests/install_postgresql.sh` installs it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import make_url

from tests.support.postgresql import PATIENCE_S, USER

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
unix_socket_dir = {directory}
listen_port = 6432
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
server_login_retry = 0.1
"""


def program() -> str | None:
    """The path of the installed program, or None."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncerProcess:
    """A pooler with few connections to the server at `host` (a directory: its Unix socket) and `port`."""

    def __init__(self, host: str, port: int = 5432, connections: int = 2) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="inhouse-pooler-"))
        configuration = self.directory / "pgbouncer.ini"
        values = {"host": host, "port": port, "user": USER, "directory": self.directory, "connections": connections}
        configuration.write_text(CONFIGURATION.format(**values))
        as_user = []
        if os.geteuid() == 0:  # it refuses to run as root
            for path in (self.directory, configuration):
                shutil.chown(path, USER, USER)
            as_user = ["--reuid", USER, "--regid", USER, "--clear-groups"]
        prefix = ["setpriv", *as_user, "--pdeathsig", "QUIT"] if sys.platform == "linux" else []
        found = program()
        assert found is not None, "there is no PgBouncer; run tests/install_postgresql.sh"
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([*prefix, found, str(configuration)], stdout=log, stderr=log)
        self._wait()

    @property
    def socket(self) -> Path:
        """The Unix socket on which it listens."""
        return self.directory / ".s.PGSQL.6432"

    def url(self, url: SecretStr) -> SecretStr:
        """The URL of the same database through this pooler."""
        there = make_url(url.get_secret_value())
        here = there.set(query={"host": str(self.directory), "port": "6432"})
        return SecretStr(here.render_as_string(hide_password=False))

    def close(self) -> None:
        """Stops it and removes its files."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(PATIENCE_S)
        shutil.rmtree(self.directory)

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE_S
        with socket.socket(socket.AF_UNIX) as attempt:
            while attempt.connect_ex(str(self.socket)):
                assert time.monotonic() < end, (self.directory / "log").read_text("utf-8", "replace")
                assert self._process.poll() is None, (self.directory / "log").read_text("utf-8", "replace")
                time.sleep(0.02)
