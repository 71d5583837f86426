"""Events in, once each, and the requests that they make, from waiting to their end.

In: what an adapter delivered, and how a request fared. Out: what is owed after a restart, and what became of a request.
Promises: an event, its turns and its request are stored together or not at all, and an event seen before changes
nothing; a request's end, its answer and the texts that must be shown are stored together or not at all.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, RowMapping, case, exists, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bot.errors import StorageError
from bot.messages import (
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
from bot.storage.database import Database, undisturbed
from bot.storage.history import add_turn, put_answer
from bot.storage.outbox import put_final, usage_json, usage_of
from bot.storage.records import NewTurn, StoredRequest
from bot.storage.tables import inbox, key_of, of_key, of_message, requests

_PARAMS = TypeAdapter(SamplingParams)
_IDENTITY = ("platform", "workspace", "channel", "identity")


class Inbox:
    """Every event and request. All methods raise StorageError, and have written nothing then."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @undisturbed
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
        async with self._database.write() as connection:
            row = insert(inbox).values(**asdict(key), identity=identity, received_at=time.time())
            # exactly this conflict: any other broken row must be an error, not a duplicate
            added = await connection.execute(row.on_conflict_do_nothing(index_elements=_IDENTITY))
            if added.rowcount == 0:
                return False
            for turn in turns:
                await add_turn(connection, turn)
            if request is not None:
                await _add(connection, request)
            return True

    @undisturbed
    async def seen(self, key: ConversationKey, identity: str) -> bool:
        """Whether an event was stored before."""
        values = {**asdict(key), "identity": identity}
        this = exists().where(*(inbox.c[name] == values[name] for name in _IDENTITY))
        async with self._database.read() as connection:
            return bool((await connection.execute(select(this))).scalar_one())

    @undisturbed
    async def add_request(self, request: GenerationRequest) -> None:
        """Store a further request for a message that is stored already."""
        async with self._database.write() as connection:
            await _add(connection, request)

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

    @undisturbed
    async def still_waiting(self, seconds_left: Mapping[str, float]) -> None:
        """How long waiting requests may still wait, by request id. One that does not wait stays as it is."""
        async with self._database.write() as connection:
            for request_id, seconds in seconds_left.items():
                await connection.execute(
                    update(requests)
                    .where(requests.c.request_id == request_id, requests.c.status == RequestStatus.WAITING)
                    .values(wait_left_s=seconds)
                )

    async def cancel(self, request_id: str) -> None:
        """A waiting request will not run. One that does not wait stays as it is."""
        await self._move(
            request_id, (RequestStatus.WAITING,), {"status": RequestStatus.CANCELLED, "finished_at": time.time()}
        )

    @undisturbed
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
        async with self._database.write() as connection:
            ended = await connection.execute(
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
                await put_answer(connection, request_id, answer)
            await put_final(connection, replies)

    @undisturbed
    async def outgrew(self, key: ConversationKey) -> bool:
        """Whether an answer of this conversation was written without its oldest turns, which did not fit any more."""
        dropped = func.json_extract(requests.c.usage, "$.dropped_turns")
        this = exists().where(of_key(requests, key), dropped > 0)
        async with self._database.read() as connection:
            return bool((await connection.execute(select(this))).scalar_one())

    @undisturbed
    async def recover(self) -> list[GenerationRequest]:
        """After a crash: what ran waits again, one attempt later. All that waits, in order of acceptance."""
        async with self._database.write() as connection:
            await connection.execute(
                update(requests)
                .where(requests.c.status == RequestStatus.RUNNING)
                .values(status=RequestStatus.WAITING, attempts=requests.c.attempts + 1)
            )
            found = await connection.execute(
                select(requests).where(requests.c.status == RequestStatus.WAITING).order_by(requests.c.id)
            )
            return [_stored_request(row).request for row in found.mappings()]

    async def request(self, request_id: str) -> StoredRequest | None:
        """One request, or None."""
        found = await self._requests(requests.c.request_id == request_id)
        return found[0] if found else None

    @undisturbed
    async def latest(self, key: ConversationKey) -> StoredRequest | None:
        """The request of this conversation that was accepted last, or None."""
        newest = (
            select(requests)
            .where(of_key(requests, key))
            .order_by(requests.c.accepted_at.desc(), requests.c.id.desc())
            .limit(1)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(newest)).mappings().one_or_none()
            return None if row is None else _stored_request(row)

    async def of_message(
        self, key: ConversationKey, message_id: str, *, everywhere: bool = False
    ) -> list[StoredRequest]:
        """The requests that a message made, oldest first; `everywhere`: in any conversation of its channel."""
        return await self._requests(of_message(requests, key, message_id, everywhere))

    @undisturbed
    async def _requests(self, which: ColumnElement[bool]) -> list[StoredRequest]:
        async with self._database.read() as connection:
            found = await connection.execute(select(requests).where(which).order_by(requests.c.id))
            return [_stored_request(row) for row in found.mappings()]

    @undisturbed
    async def _move(self, request_id: str, of: Sequence[RequestStatus], values: dict[str, object]) -> None:
        async with self._database.write() as connection:
            await connection.execute(
                update(requests).where(requests.c.request_id == request_id, requests.c.status.in_(of)).values(values)
            )


async def _add(connection: AsyncConnection, request: GenerationRequest) -> None:
    await connection.execute(
        insert(requests).values(
            request_id=request.request_id,
            **asdict(request.key),
            message_id=request.message_id,
            author_id=request.author.id,
            author_name=request.author.name,
            author_manages_channel=request.author.manages_channel,
            author_manages_workspace=request.author.manages_workspace,
            model=request.model,
            params=_PARAMS.dump_json(request.params).decode(),
            kind=request.kind,
            attempts=request.attempts,
            accepted_at=request.accepted_at,
            wait_left_s=request.wait_left_s,
            status=RequestStatus.WAITING,
            error="",
            remark=request.remark,
            service_runs=request.service_runs,
        )
    )


def _stored_request(row: RowMapping) -> StoredRequest:
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
    )
    return StoredRequest(
        request=request,
        status=RequestStatus(row["status"]),
        finish_reason=None if reason is None else FinishReason(reason),
        usage=usage_of(row["usage"]),
        error=row["error"],
        finished_at=row["finished_at"],
    )
