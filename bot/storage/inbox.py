"""Stores each event once, and the status of its request from waiting to its end.

An event, its turns and its request are stored in one transaction; a known event changes nothing. The final status of a
request, its answer and its final texts are stored in one transaction, too.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, RowMapping, Select, and_, bindparam, case, exists, or_, select, update
from sqlalchemy.exc import IntegrityError

from bot.storage.adoption import adopt
from bot.storage.answers import lock_question, put_answer, put_thoughts
from bot.storage.backend import wake_others
from bot.storage.database import Database
from bot.storage.dialect import insert, json_number_is_positive
from bot.storage.history import add_turn, question_turn, resolved
from bot.storage.outbox import put_final, usage_json, usage_of
from bot.storage.row_types import NewTurn, StoredRequest
from bot.storage.tables import KEY, inbox, key_of, of_key, of_message, requests
from bot.types.errors import StorageError
from bot.types.messages import (
    ConversationKey,
    FinishReason,
    GenerationRequest,
    Person,
    Reply,
    RequestKind,
    RequestStatus,
    SamplingParams,
    Usage,
)

_IDENTITY = ("platform", "workspace", "channel", "identity")

_ARRIVAL = insert(inbox).on_conflict_do_nothing(index_elements=_IDENTITY).execution_options(preserve_rowcount=True)
"""Ignores only this conflict: any other constraint violation must raise."""
_REQUEST = insert(requests).returning(requests.c.id)
_PARAMS = TypeAdapter(SamplingParams)

REFUSED = "refused "
"""Begins the identity of the row that says that an event was refused."""

MakeRequest = Callable[[Mapping[str, str]], GenerationRequest]
"""Makes a request from the effective settings of its conversation."""


class Inbox:
    """All events and requests. All methods raise StorageError and then have written nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def accept(
        self,
        key: ConversationKey,
        identity: str,
        *,
        turns: Sequence[NewTurn] = (),
        request: GenerationRequest | None = None,
        at_once: bool = True,
    ) -> bool:
        """Store an event with its turns and its request; False, without a write, if the event is known.

        identity: the platform's id of the event, unique in its channel; the thread is not part of it. at_once: fail
        while the server does not answer.
        """

        def accept(connection: Connection) -> bool:
            if not _new(connection, key, identity):
                return False
            for turn in turns:
                add_turn(connection, turn)
            if request is not None:
                self._put(connection, request)
            return True

        return await self._database.write(accept, urgent=True, at_once=at_once)

    async def ask(
        self, key: ConversationKey, identity: str, turns: Sequence[NewTurn], make: MakeRequest, holder: str = ""
    ) -> GenerationRequest | None:
        """Same as `accept`, with a request that `make` builds from the conversation's settings; None if it is known.

        `make` runs on the writer's thread. holder: another host that is to hold the request.
        """

        def ask(connection: Connection) -> GenerationRequest | None:
            if not _new(connection, key, identity):
                return None
            request = make(resolved(connection, key))
            for turn in turns:
                add_turn(connection, turn)
            return self._put(connection, request, holder)

        return await self._database.write(ask, urgent=True)

    async def refuse(self, key: ConversationKey, identity: str) -> bool:
        """Store that an event was refused; False, without a write, if the event is known."""

        def refuse(connection: Connection) -> bool:
            return _new(connection, key, identity) and _new(connection, key, REFUSED + identity)

        return await self._database.write(refuse, urgent=True)

    async def seen(self, key: ConversationKey, identity: str) -> bool:
        """Whether an event is stored."""
        values = {**asdict(key), "identity": identity}
        this = exists().where(*(inbox.c[name] == values[name] for name in _IDENTITY))
        return await self._database.read(lambda connection: bool(connection.execute(select(this)).scalar_one()))

    async def latest_seen(self, since: float, limit: int) -> list[tuple[str, ...]]:
        """Newest stored events, oldest first: platform, workspace, channel and identity of each."""
        newest = (
            select(*(inbox.c[name] for name in _IDENTITY))
            .where(inbox.c.received_at > since)
            .order_by(inbox.c.received_at.desc())
            .limit(limit)
        )
        return await self._database.read(lambda connection: [tuple(row) for row in connection.execute(newest)][::-1])

    async def add_request(self, request: GenerationRequest, holder: str = "") -> GenerationRequest | None:
        """Store another request for a stored message; returns it with its number. holder: as in `ask`.

        None, without a write, while an earlier one is unfinished, on whichever host.
        """
        unfinished = exists().where(
            of_message(requests, request.key, request.message_id, everywhere=False),
            requests.c.status.in_((RequestStatus.WAITING, RequestStatus.RUNNING)),
        )

        def add(connection: Connection) -> GenerationRequest | None:
            question_turn(connection, request.key, request.message_id, lock=True)
            if connection.execute(select(unfinished)).scalar_one():
                return None
            return self._put(connection, request, holder)

        return await self._database.write(add, urgent=True, at_once=True)

    async def start(self, request_id: str) -> bool:
        """Take a waiting request: mark it as running here. False if it does not wait, or its conversation is busy.

        False also if this host holds it and is to stop it. True, without a change, if it runs here already. Counts this
        service run as killed during the answer, until the request is handed back or its answer is shown.
        """
        may_go_on = or_(requests.c.stop == "", requests.c.host != self._database.host)
        is_waiting = and_(requests.c.status == RequestStatus.WAITING, may_go_on)
        runs_here = and_(requests.c.status == RequestStatus.RUNNING, requests.c.taker == self._database.host)
        waiting = select(requests.c.id).where(requests.c.request_id == request_id, or_(is_waiting, runs_here))
        if self._database.host:  # in a file, the queue in memory keeps the order of a conversation
            other = requests.alias()
            busy = exists().where(
                *(other.c[name] == requests.c[name] for name in KEY),
                other.c.id != requests.c.id,
                or_(
                    other.c.status == RequestStatus.RUNNING,
                    and_(other.c.status == RequestStatus.WAITING, other.c.id < requests.c.id),
                ),
            )
            waiting = waiting.where(~busy).with_for_update(skip_locked=True, of=requests)
        this = (
            update(requests)
            .where(requests.c.id.in_(waiting))
            .values(
                status=RequestStatus.RUNNING,
                taker=self._database.host,
                service_runs=requests.c.service_runs + case((is_waiting, 1), else_=0),
            )
        )

        def start(connection: Connection) -> bool:
            if not self._database.host:
                return connection.execute(this).rowcount > 0
            try:
                with connection.begin_nested():
                    taken = connection.execute(this).rowcount > 0
            except IntegrityError:  # another host took an earlier request of the conversation at the same time
                return False
            wake_others(connection)
            return taken

        return await self._database.write(start)

    async def hand_back(self, request_id: str, wait_left_s: float, *, counts: bool) -> None:
        """Mark a request as waiting (again), for at most `wait_left_s`. counts: count an attempt (the engine died).

        Ignores requests that have ended.
        """
        await self._move(
            request_id,
            (RequestStatus.WAITING, RequestStatus.RUNNING),
            {
                "status": RequestStatus.WAITING,
                "wait_left_s": wait_left_s,
                "attempts": requests.c.attempts + int(counts),
                "taker": "",
                "service_runs": case(
                    (requests.c.status == RequestStatus.RUNNING, requests.c.service_runs - 1),
                    else_=requests.c.service_runs,
                ),
            },
        )

    async def still_waiting(self, seconds_left: Mapping[str, float]) -> None:
        """Store the remaining waiting times by request id; ignores requests that do not wait."""
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
        """Cancel a waiting request; ignores requests that do not wait."""
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
        thoughts: str = "",
    ) -> None:
        """Store how a request ended, its answer and its thoughts, and the parts that must be shown.

        An answer of None or '' keeps an earlier answer to the same question. If the question was deleted, its answer
        and its thoughts are not stored.
        """

        def finish(connection: Connection) -> None:
            lock_question(connection, request_id)
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
            if thoughts:
                put_thoughts(connection, request_id, thoughts)
            put_final(connection, replies)
            wake_others(connection)

        await self._database.write(finish)

    async def outgrew(self, key: ConversationKey) -> bool:
        """Whether any answer of this conversation was generated without its oldest turns, which did not fit."""
        this = exists().where(of_key(requests, key), json_number_is_positive(requests.c.usage, "dropped_turns"))
        return await self._database.read(lambda connection: bool(connection.execute(select(this)).scalar_one()))

    async def recover(self) -> list[GenerationRequest]:
        """Reset this host's running requests after a crash, with one more attempt; returns its waiting ones in order.

        They include those of no host, from a file.
        """
        host = self._database.host

        def recover(connection: Connection) -> list[GenerationRequest]:
            adopt(connection, ("", host), host)
            found = connection.execute(
                select(requests)
                .where(requests.c.host == host, requests.c.status.in_((RequestStatus.WAITING, RequestStatus.RUNNING)))
                .order_by(requests.c.id)
            )
            return [stored_request(row).request for row in found.mappings()]

        return await self._database.write(recover)

    async def request(self, request_id: str) -> StoredRequest | None:
        """Return a request, or None."""
        found = await self._found(select(requests).where(requests.c.request_id == request_id))
        return found[0] if found else None

    async def first_asker(self, key: ConversationKey) -> str | None:
        """Id of the user who asked the first question of this conversation, or None."""
        first = select(requests.c.author_id).where(of_key(requests, key)).order_by(requests.c.id).limit(1)
        return await self._database.read(lambda connection: connection.execute(first).scalar_one_or_none())

    async def of_message(
        self, key: ConversationKey, message_id: str, *, everywhere: bool = False
    ) -> list[StoredRequest]:
        """Requests of a message, oldest first; `everywhere`: in any conversation of its channel."""
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
            wake_others(connection)

        await self._database.write(move)

    def _put(self, connection: Connection, request: GenerationRequest, holder: str = "") -> GenerationRequest:
        """Store a request; returns it with its number."""
        row = {**_request_row(request), "host": holder or self._database.host}
        wake_others(connection)
        return replace(request, number=connection.execute(_REQUEST, row).scalar_one())


def _new(connection: Connection, key: ConversationKey, identity: str) -> bool:
    """Record an event; False if it is known."""
    row = {**asdict(key), "identity": identity, "received_at": time.time()}
    return connection.execute(_ARRIVAL, row).rowcount > 0


def _request_row(request: GenerationRequest) -> dict[str, Any]:  # Any: what columns hold
    """Row of a waiting request."""
    return {
        "request_id": request.request_id,
        **asdict(request.key),
        "message_id": request.message_id,
        "author_id": request.author.id,
        "author_name": request.author.name,
        "author_manages_channel": request.author.manages_channel,
        "author_manages_workspace": request.author.manages_workspace,
        "model": request.model,
        "params": _PARAMS.dump_json(request.params).decode(),
        "kind": request.kind,
        "attempts": request.attempts,
        "accepted_at": request.accepted_at,
        "wait_left_s": request.wait_left_s,
        "status": RequestStatus.WAITING,
        "error": "",
        "remark": request.remark,
        "service_runs": request.service_runs,
    }


def stored_request(row: RowMapping) -> StoredRequest:
    """Convert a row to a StoredRequest."""
    reason = row["finish_reason"]
    request = GenerationRequest(
        request_id=row["request_id"],
        key=key_of(row),
        message_id=row["message_id"],
        author=Person(
            row["author_id"], row["author_name"], row["author_manages_channel"], row["author_manages_workspace"]
        ),
        model=row["model"],
        params=_PARAMS.validate_json(row["params"]),
        attempts=row["attempts"],
        accepted_at=row["accepted_at"],
        wait_left_s=row["wait_left_s"],
        kind=RequestKind(row["kind"]),
        remark=row["remark"],
        service_runs=row["service_runs"],
        number=row["id"],
    )
    return StoredRequest(
        request=request,
        status=RequestStatus(row["status"]),
        finish_reason=None if reason is None else FinishReason(reason),
        usage=usage_of(row["usage"]),
        error=row["error"],
        finished_at=row["finished_at"],
    )
