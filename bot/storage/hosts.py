"""The hosts that use one database together, and what one does with a request that another one holds.

A request is held by one host, which shows its answer. A host that takes it to write the answer is handed it by the
holder. All methods raise StorageError. In a file there is one host, which needs none of this.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Update,
    case,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from bot.storage import postgresql
from bot.storage.adoption import adopt
from bot.storage.backend import wake_others
from bot.storage.database import Database
from bot.storage.inbox import stored_request
from bot.storage.outbox import undelivered_of
from bot.storage.postgresql import ENDED, NOW, renewed_s, watched_s
from bot.storage.row_types import StoredReply
from bot.storage.tables import hosts, outbox, requests
from bot.types.messages import GenerationRequest, RequestStatus

UNFINISHED = (RequestStatus.WAITING, RequestStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Host:
    """A process of Inhouse.

    expires_at: the end of its lease, by the server's clock; once it has ended, minus the time of that. left_s: seconds
    until the lease ends. slots: answers that it writes at once; model: the loaded one; models: those that it can load;
    answer_s: seconds of one of its answers, None before the first. holds: it has requests or undelivered texts.
    """

    name: str
    epoch: int
    expires_at: float
    left_s: float
    roles: frozenset[str]
    slots: int
    model: str
    models: frozenset[str]
    answer_s: float | None
    holds: bool


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A request in the database. host: who holds it. taker: who writes or wants to write it, '' while it waits.

    stop: '', 'stop', or 'unasked' where its question was deleted. edited: another host saw its question edited.
    """

    request: GenerationRequest
    running: bool
    host: str
    taker: str
    stop: str
    edited: bool


class Hosts:
    """All hosts. `this` is the name of this one, '' where it is alone by construction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.this = database.host

    @property
    def watched_s(self) -> float:
        """How long a lease must have been seen without a renewal before its host counts as dead, seconds."""
        return watched_s()

    @property
    def lease_s(self) -> float:
        """How long a lease is valid without a renewal, seconds."""
        return postgresql.LEASE_S

    @property
    def renewed_s(self) -> float:
        """The least seconds that a lease has left while its host renews it in time."""
        return renewed_s()

    async def all(self) -> list[Host]:
        """Every host that ever used the database, by name; notes whether there are others to wake."""
        left = (hosts.c.expires_at - literal_column(NOW)).label("left_s")
        columns = [column for column in hosts.c if column not in (hosts.c.place, hosts.c.settings)]
        statement = select(*columns, left, _holds().label("holds")).order_by(hosts.c.name)

        def read(connection: Connection) -> list[Host]:
            return [
                Host(
                    **{
                        **row,
                        "roles": frozenset(row["roles"].split(",")) - {""},
                        "models": frozenset(row["models"].splitlines()),
                    }
                )
                for row in connection.execute(statement).mappings()
            ]

        found = await self._database.read(read)
        self._database.has_others = any(host.left_s > 0 and host.name != self.this for host in found)
        return found

    async def forget(self, gone_s: float) -> int:
        """Delete the hosts that have been gone for so long and hold nothing; returns their number.

        It must be long, because another host may still place a request at one that has just ended.
        """
        gone = func.abs(hosts.c.expires_at) < literal_column(NOW) - gone_s
        known = hosts.c.expires_at != 0  # as of a version that did not store when a host ended
        return await self._write(delete(hosts).where(gone, known, ~_holds())) if self.this else 0

    async def describe(
        self,
        roles: Sequence[str],
        slots: int,
        model: str,
        models: Sequence[str],
        answer_s: float | None,
        settings: Mapping[str, str],
    ) -> None:
        """Tell the other hosts what this one does. settings: hashes of those that should be the same on all."""
        values = {
            "roles": ",".join(roles),
            "slots": slots,
            "model": model,
            "models": "\n".join(models),
            "answer_s": answer_s,
            "settings": json.dumps(settings),
        }
        await self._write(update(hosts).where(hosts.c.name == self.this).values(values))

    async def unfinished(self) -> list[Unfinished]:
        """The unfinished requests of all hosts, in order of acceptance."""
        statement = select(requests).where(requests.c.status.in_(UNFINISHED)).order_by(requests.c.id)

        def read(connection: Connection) -> list[Unfinished]:
            return [
                Unfinished(
                    stored_request(row).request,
                    row["status"] == RequestStatus.RUNNING,
                    *(row[name] for name in ("host", "taker", "stop", "edited")),
                )
                for row in connection.execute(statement).mappings()
            ]

        return await self._database.read(read)

    async def hand_over(self, request_id: str, taker: str) -> bool:
        """Give a request of this host to the one that took it; False if that one does not want it any more."""
        this = update(requests).where(
            requests.c.request_id == request_id,
            requests.c.host == self.this,
            requests.c.taker == taker,
            requests.c.status == RequestStatus.RUNNING,
        )
        return await self._write(this.values(host=taker)) > 0

    async def withdraw(self, request_id: str, *, handed_over: bool = False) -> bool:
        """Let a request wait again that this host took and does not write; False if it has ended or was handed over.

        handed_over: also one that was.
        """
        this = update(requests).where(
            requests.c.request_id == request_id,
            requests.c.taker == self.this,
            requests.c.status == RequestStatus.RUNNING,
        )
        if not handed_over:
            this = this.where(requests.c.host != self.this)
        waiting = {"status": RequestStatus.WAITING, "taker": "", "service_runs": requests.c.service_runs - 1}
        return await self._write(this.values(waiting)) > 0

    async def ask_to_stop(self, request_id: str, *, unasked: bool) -> bool:
        """Have the host of a request stop it; False if it has ended. unasked: its question was deleted."""
        this = update(requests).where(requests.c.request_id == request_id, requests.c.status.in_(UNFINISHED))
        stronger = case((requests.c.stop == "unasked", "unasked"), else_="unasked" if unasked else "stop")
        return await self._write(this.values(stop=stronger)) > 0

    async def note_edit(self, request_id: str) -> bool:
        """Tell the host of a request that its question was edited; False if it has ended."""
        this = update(requests).where(requests.c.request_id == request_id, requests.c.status.in_(UNFINISHED))
        return await self._write(this.values(edited=True)) > 0

    async def take_over(self, dead: Host) -> tuple[list[GenerationRequest], list[StoredReply]] | None:
        """Declare a host dead whose lease has expired, and move what it held to this one.

        Returns those of its requests that wait now, and its undelivered texts; None if it renewed its lease, or another
        host was faster. A request that this host had taken from it is handed over. Never waits for a lock that the dead
        host may hold.
        """
        expired = (
            select(hosts.c.name)
            .where(hosts.c.name == dead.name, hosts.c.epoch == dead.epoch, hosts.c.expires_at == dead.expires_at)
            .where(hosts.c.expires_at < literal_column(NOW))
            .with_for_update(skip_locked=True)
        )
        fenced = (
            update(hosts)
            .where(hosts.c.name.in_(expired))
            .values(epoch=hosts.c.epoch + 1, expires_at=literal_column(ENDED))
        )
        held = select(requests.c.request_id).where(requests.c.host == dead.name, requests.c.status.in_(UNFINISHED))

        def take_over(connection: Connection) -> tuple[list[GenerationRequest], list[StoredReply]] | None:
            if not connection.execute(fenced).rowcount:
                return None
            before = connection.execute(held).scalars().all()
            texts = undelivered_of(connection, dead.name)
            adopt(connection, (dead.name,), self.this)
            mine = select(requests).where(
                requests.c.request_id.in_(before),
                requests.c.host == self.this,
                requests.c.status == RequestStatus.WAITING,
            )
            found = [stored_request(row).request for row in connection.execute(mine.order_by(requests.c.id)).mappings()]
            return found, texts

        return await self._database.write(take_over)

    async def _write(self, statement: Update | Delete) -> int:
        def write(connection: Connection) -> int:
            wake_others(connection)
            return connection.execute(statement).rowcount

        return await self._database.write(write)


def _holds() -> ColumnElement[bool]:
    """Whether a host has requests or undelivered texts."""
    theirs = or_(requests.c.host == hosts.c.name, requests.c.taker == hosts.c.name)
    undelivered = select(outbox.c.request_id).where(outbox.c.state == "ready")
    return or_(
        exists().where(theirs, requests.c.status.in_(UNFINISHED)),
        exists().where(requests.c.host == hosts.c.name, requests.c.request_id.in_(undelivered)),
    )
