"""Stores named leases, by which one of several hosts claims what only one may do. For PostgreSQL.

A lease is a row with an owner and an expiry by the server's clock.
"""

import math
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, bindparam, text

from bot.storage.database import Database

_NOW = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
_CLAIM = text(f"""
    INSERT INTO leases (name, owner, epoch, expires_at) VALUES (:name, :owner, 1, {_NOW} + :seconds)
    ON CONFLICT (name) DO UPDATE
    SET owner = excluded.owner, epoch = leases.epoch + 1, expires_at = excluded.expires_at
    WHERE leases.owner = excluded.owner OR leases.expires_at = 0 OR (:expired AND leases.expires_at < {_NOW})
    RETURNING epoch
""")
_RELEASE = text("UPDATE leases SET expires_at = 0 WHERE name = :name AND owner = :owner")
_HELD = text(f"SELECT count(*) FROM leases WHERE name IN :names AND expires_at >= {_NOW}").bindparams(
    bindparam("names", expanding=True)
)
_OF_OTHERS = text(
    f"SELECT name FROM leases WHERE name IN :names AND owner <> :owner AND expires_at >= {_NOW}"
).bindparams(bindparam("names", expanding=True))
_RESERVE = text(f"""
    INSERT INTO leases (name, owner, epoch, expires_at) VALUES (:name, :owner, 1, {_NOW} + :seconds)
    ON CONFLICT (name) DO UPDATE
    SET owner = excluded.owner, epoch = leases.epoch + 1, expires_at = greatest(leases.expires_at, {_NOW}) + :seconds
    WHERE leases.expires_at - {_NOW} <= :at_most
    RETURNING expires_at - :seconds - {_NOW}
""")
_FORGET_EXPIRED = text(f"""
    DELETE FROM leases WHERE name IN
    (SELECT name FROM leases WHERE starts_with(name, :prefix) AND expires_at < {_NOW} FOR UPDATE SKIP LOCKED)
""")
_COUNT_MEMBERS = text("SELECT count(*) FROM leases WHERE starts_with(name, :prefix)")


class Leases:
    """All leases. All methods raise StorageError, at once while the server does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def share(
        self,
        owner: str,
        names: Sequence[str],
        wanted: Collection[str],
        held: Collection[str],
        seconds: float,
        *,
        expired: bool = True,
    ) -> set[str]:
        """Claim or renew leases for `seconds`; returns those that `owner` holds now.

        names: the leases that are divided equally among the hosts that call this with the same names. wanted: those of
        them that this host wants. held: those that it holds. If it holds too many, it gives up one with each call.
        expired: also claim leases that others did not release.
        """

        def work(connection: Connection) -> set[str]:
            most = math.ceil(len(names) / self._members(connection, owner, names, seconds))
            most = max(most, len(held) - 1)
            kept: set[str] = set()
            # a claim locks even a row that it cannot have, so hosts that hold different ones would wait for each other
            others = set(connection.execute(_OF_OTHERS, {"names": list(names), "owner": owner}).scalars())
            for name in sorted(set(wanted) - others, key=lambda name: (name not in held, names.index(name))):
                lease = {"name": name, "owner": owner, "seconds": seconds, "expired": expired}
                if len(kept) < most:
                    if connection.execute(_CLAIM, lease).scalar_one_or_none() is not None:
                        kept.add(name)
                elif name in held:
                    connection.execute(_RELEASE, lease)
            return kept

        return await self._database.write(work, urgent=True, at_once=True)

    async def claim_once(self, owner: str, kind: str, name: str, seconds: float) -> bool:
        """Claim `name` for `seconds`; False if another host has. Deletes the expired claims of the same `kind`."""

        def work(connection: Connection) -> bool:
            connection.execute(_FORGET_EXPIRED, {"prefix": kind})
            lease = {"name": kind + name, "owner": owner, "seconds": seconds, "expired": True}
            return connection.execute(_CLAIM, lease).scalar_one_or_none() is not None

        return await self._database.write(work, urgent=True, at_once=True)

    async def release(self, owner: str, names: Collection[str], left: Sequence[Sequence[str]] = ()) -> None:
        """Release leases. `left`: the `names` of calls of `share` that will not be repeated."""

        def work(connection: Connection) -> None:
            for name in sorted([*names, *(_member_prefix(each) + owner for each in left)]):
                connection.execute(_RELEASE, {"name": name, "owner": owner})

        await self._database.write(work, urgent=True, at_once=True)

    async def any_free(self, names: Collection[str]) -> bool:
        """Whether no host holds one of these leases. Waits while the server does not answer."""

        def work(connection: Connection) -> bool:
            return int(connection.execute(_HELD, {"names": list(names)}).scalar_one()) < len(names)

        return await self._database.read(work)

    async def reserve(self, owner: str, name: str, seconds: float, at_most: float = math.inf) -> float | None:
        """Reserve the next `seconds` of `name` that no host has reserved; returns how long it is until they begin.

        None, without a reservation, if that is longer than `at_most`.
        """

        def work(connection: Connection) -> float | None:
            row = {"name": name, "owner": owner, "seconds": seconds, "at_most": at_most}
            wait = connection.execute(_RESERVE, row).scalar_one_or_none()
            return None if wait is None else max(0.0, float(wait))

        return await self._database.write(work, urgent=True, at_once=True)

    @staticmethod
    def _members(connection: Connection, owner: str, names: Sequence[str], seconds: float) -> int:
        """Join the hosts among which `names` are divided; their number."""
        if len(names) == 1:
            return 1
        prefix = _member_prefix(names)
        connection.execute(_CLAIM, {"name": prefix + owner, "owner": owner, "seconds": seconds, "expired": True})
        connection.execute(_FORGET_EXPIRED, {"prefix": prefix})
        return int(connection.execute(_COUNT_MEMBERS, {"prefix": prefix}).scalar_one())


def _member_prefix(names: Sequence[str]) -> str:
    """The beginning of the names of the leases by which hosts tell that they want some of `names`."""
    return f"member of {names[0]}: "
