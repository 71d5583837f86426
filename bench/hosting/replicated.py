"""A PostgreSQL server with a synchronous replica, which takes its place."""

import asyncio
import signal
import time

from pydantic import SecretStr

from tests.support.postgresql import USER, PostgresqlProcess, PostgresqlReplica


class ReplicatedPostgresql(PostgresqlProcess):
    """The primary, with its `replica`. Its URLs name both, so that the one that accepts writes is found."""

    def __init__(self, addresses: tuple[str, str]) -> None:
        super().__init__(safe=True, address=addresses[0])
        self._of_replica = addresses[1]
        self.replica: PostgresqlReplica | None = None

    def start(self) -> None:
        """Starts both."""
        super().start()
        replica = PostgresqlReplica(self, address=self._of_replica)
        replica.start()
        self.replica = replica

    def close(self) -> None:
        """Stops both, and removes their files."""
        super().close()
        if self.replica is not None:
            self.replica.close()

    def url(self, database: str = USER, user: str = USER, password: str = "") -> SecretStr:
        """The URL of a database on both."""
        url = super().url(database, user, password)
        return url if self.replica is None else SecretStr(f"{url.get_secret_value()}&host={self.replica.directory}")

    async def fail_over(self, after_s: float) -> float:
        """Kills the primary and promotes the replica `after_s` later; returns when it was killed, in Unix time."""
        assert self.replica is not None
        at = time.time()
        self.stop(signal.SIGQUIT)
        await asyncio.sleep(after_s)
        await asyncio.to_thread(self.replica.promote)
        return at
