"""Stores events, once each, and the requests that they make, from waiting to their end.

An event, its turns and its request are stored together or not at all, and an event seen before changes nothing; a
request's end, its answer and the texts that must be shown are stored together or not at all.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Select, bindparam, case, exists, func, select, update
from sqlalchemy.dialects.sqlite import insert

from bot.storage.database import Database
from bot.storage.history import add_turn, put_answer, resolved
from bot.storage.outbox import put_final, usage_json
from bot.storage.request_rows import request_row, stored_request
from bot.storage.row_types import NewTurn, StoredRequest
from bot.storage.tables import inbox, of_key, of_message, requests
from bot.types.errors import StorageError
from bot.types.messages import (
    ConversationKey,
    FinishReason,
    GenerationRequest,
    Reply,
    RequestStatus,
    Usage,
)

_IDENTITY = ("platform", "workspace", "channel", "identity")

_ARRIVAL = insert(inbox).on_conflict_do_nothing(index_elements=_IDENTITY)
"""Exactly this conflict: any other broken row must be an error, not a duplicate."""
_REQUEST = insert(requests)

MakeRequest = Callable[[Mapping[str, str]], GenerationRequest]
"""A request of the settings that hold in its conversation."""


class Inbox:
    """Every event and request. All methods raise StorageError, and have written nothing then."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accept(
        self,
        key: ConversationKey,
        identity: str,
        *,
        turns: Sequence[NewTurn] = (),
        request: GenerationRequest | None = None,
    ) -> bool:
        """Store an event with its turns and its request. False: it was seen before, and nothing is written.

        identity: the platform's id of the event, one of its kind in the channel. A thread does not tell events apart.
        """

        def accept(connection: Connection) -> bool:
            if not _new(connection, key, identity):
                return False
            _add(connection, turns, request)
            return True

        return await self._database.write(accept, urgent=True)

    async def ask(
        self, key: ConversationKey, identity: str, turns: Sequence[NewTurn], make: MakeRequest
    ) -> GenerationRequest | None:
        """As `accept`, with the request that `make` makes of the conversation's settings; None: it was seen before.

        `make` is called on the thread that writes.
        """

        def ask(connection: Connection) -> GenerationRequest | None:
            if not _new(connection, key, identity):
                return None
            request = make(resolved(connection, key))
            _add(connection, turns, request)
            return request

        return await self._database.write(ask, urgent=True)

    async def seen(self, key: ConversationKey, identity: str) -> bool:
        """Whether an event was stored before."""
        values = {**asdict(key), "identity": identity}
        this = exists().where(*(inbox.c[name] == values[name] for name in _IDENTITY))
        return await self._database.read(lambda connection: bool(connection.execute(select(this)).scalar_one()))

    async def latest_seen(self, since: float, limit: int) -> list[tuple[str, ...]]:
        """The events that were stored last, oldest first: platform, workspace, channel and identity of each."""
        newest = (
            select(*(inbox.c[name] for name in _IDENTITY))
            .where(inbox.c.received_at > since)
            .order_by(inbox.c.received_at.desc())
            .limit(limit)
        )
        return await self._database.read(lambda connection: [tuple(row) for row in connection.execute(newest)][::-1])

    async def add_request(self, request: GenerationRequest) -> None:
        """Store a further request for a message that is stored already."""
        await self._database.write(lambda connection: _add(connection, (), request), urgent=True)

    async def start(self, request_id: str) -> None:
        """A waiting request is running now. One that does not wait (cancelled meanwhile) stays as it is.

        This run of the service counts as killed while it showed the answer until it is handed back, or shown.
        """
        running = {"status": RequestStatus.RUNNING, "service_runs": requests.c.service_runs + 1}
        await self._move(request_id, (RequestStatus.WAITING,), running)

    async def hand_back(self, request_id: str, wait_left_s: float, *, counts: bool) -> None:
        """A request waits (again), for at most `wait_left_s`. counts: the attempt did (the engine died of it).

        One that has ended meanwhile stays as it is.
        """
        await self._move(
            request_id,
            (RequestStatus.WAITING, RequestStatus.RUNNING),
            {
                "status": RequestStatus.WAITING,
                "wait_left_s": wait_left_s,
                "attempts": requests.c.attempts + int(counts),
                "service_runs": case(
                    (requests.c.status == RequestStatus.RUNNING, requests.c.service_runs - 1),
                    else_=requests.c.service_runs,
                ),
            },
        )

    async def still_waiting(self, seconds_left: Mapping[str, float]) -> None:
        """How long waiting requests may still wait, by request id. One that does not wait stays as it is."""
        left = [{"this": request_id, "seconds": seconds} for request_id, seconds in seconds_left.items()]

        def store(connection: Connection) -> None:
            connection.execute(
                update(requests)
                .where(requests.c.request_id == bindparam("this"), requests.c.status == RequestStatus.WAITING)
                .values(wait_left_s=bindparam("seconds")),
                left,
            )

        if left:
            await self._database.write(store)

    async def cancel(self, request_id: str) -> None:
        """A waiting request will not run. One that does not wait stays as it is."""
        await self._move(
            request_id, (RequestStatus.WAITING,), {"status": RequestStatus.CANCELLED, "finished_at": time.time()}
        )

    async def finish(
        self,
        request_id: str,
        status: RequestStatus,
        *,
        finish_reason: FinishReason,
        usage: Usage | None,
        error: str,
        answer: str | None,
        replies: Sequence[Reply],
    ) -> None:
        """A request ended: store how, its answer as the answer to its question, and the parts that must be shown.

        An answer that is None or '' leaves an earlier answer to the same question as it is. The answer to a question
        that was deleted meanwhile is not stored.
        """

        def finish(connection: Connection) -> None:
            ended = connection.execute(
                update(requests)
                .where(requests.c.request_id == request_id)
                .values(
                    status=status,
                    finish_reason=finish_reason,
                    usage=usage_json(usage),
                    error=error,
                    finished_at=time.time(),
                )
            )
            if ended.rowcount == 0:
                raise StorageError(f"The request {request_id} is not stored, so it cannot end.")
            if answer:
                put_answer(connection, request_id, answer)
            put_final(connection, replies)

        await self._database.write(finish)

    async def outgrew(self, key: ConversationKey) -> bool:
        """Whether an answer of this conversation was written without its oldest turns, which did not fit any more."""
        dropped = func.json_extract(requests.c.usage, "$.dropped_turns")
        this = exists().where(of_key(requests, key), dropped > 0)
        return await self._database.read(lambda connection: bool(connection.execute(select(this)).scalar_one()))

    async def recover(self) -> list[GenerationRequest]:
        """After a crash: what ran waits again, one attempt later. All that waits, in order of acceptance."""

        def recover(connection: Connection) -> list[GenerationRequest]:
            connection.execute(
                update(requests)
                .where(requests.c.status == RequestStatus.RUNNING)
                .values(status=RequestStatus.WAITING, attempts=requests.c.attempts + 1)
            )
            found = connection.execute(
                select(requests).where(requests.c.status == RequestStatus.WAITING).order_by(requests.c.id)
            )
            return [stored_request(row).request for row in found.mappings()]

        return await self._database.write(recover)

    async def request(self, request_id: str) -> StoredRequest | None:
        """One request, or None."""
        found = await self._found(select(requests).where(requests.c.request_id == request_id))
        return found[0] if found else None

    async def latest(self, key: ConversationKey) -> StoredRequest | None:
        """The request of this conversation that was accepted last, or None."""
        newest = (
            select(requests)
            .where(of_key(requests, key))
            .order_by(requests.c.accepted_at.desc(), requests.c.id.desc())
            .limit(1)
        )
        found = await self._found(newest)
        return found[0] if found else None

    async def of_message(
        self, key: ConversationKey, message_id: str, *, everywhere: bool = False
    ) -> list[StoredRequest]:
        """The requests that a message made, oldest first; `everywhere`: in any conversation of its channel."""
        which = of_message(requests, key, message_id, everywhere)
        return await self._found(select(requests).where(which).order_by(requests.c.id))

    async def _found(self, statement: Select[Any]) -> list[StoredRequest]:  # Any: SQLAlchemy's, of whole tables
        return await self._database.read(
            lambda connection: [stored_request(row) for row in connection.execute(statement).mappings()]
        )

    async def _move(self, request_id: str, of: Sequence[RequestStatus], values: dict[str, object]) -> None:
        this = update(requests).where(requests.c.request_id == request_id, requests.c.status.in_(of)).values(values)

        def move(connection: Connection) -> None:
            connection.execute(this)

        await self._database.write(move)


def _new(connection: Connection, key: ConversationKey, identity: str) -> bool:
    """Store that an event came; False if it was stored before."""
    row = {**asdict(key), "identity": identity, "received_at": time.time()}
    return connection.execute(_ARRIVAL, row).rowcount > 0


def _add(connection: Connection, turns: Sequence[NewTurn], request: GenerationRequest | None) -> None:
    for turn in turns:
        add_turn(connection, turn)
    if request is not None:
        connection.execute(_REQUEST, request_row(request))
