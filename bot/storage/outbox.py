"""Stores the parts of answers, that is their messages, and the delivery state of each.

A stored platform id is never lost. A final text stays pending until it is delivered, that is shown or dropped.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Update, and_, case, delete, func, select, update

from bot.storage.database import Database, shield_from_cancellation
from bot.storage.dialect import Insert, insert
from bot.storage.row_types import StoredReply
from bot.storage.tables import KEY, key_of, of_key, outbox, ratings, requests, thoughts, turns
from bot.types.messages import (
    ActionKind,
    Attachment,
    ConversationKey,
    FinishReason,
    Person,
    Reply,
    RequestStatus,
    Role,
    Usage,
)

THOUGHTS_S = 86_400.0
"""How long the thoughts of an answer are kept, in seconds."""

_BUTTONS = TypeAdapter(tuple[ActionKind, ...])
_USAGE = TypeAdapter(Usage | None)
_ENDED = (RequestStatus.FINISHED, RequestStatus.FAILED, RequestStatus.CANCELLED)
_NO_TEXT = {"committed": "", "attachment_name": None, "attachment_text": None, "asker_name": ""}


class Outbox:
    """The parts of all answers. All methods raise StorageError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def posting(self, reply: Reply) -> None:
        """Record the intent to post `reply`; keeps a part that is already stored."""
        row = insert(outbox).values(**_values(reply), state="posting", dropped="")
        await self._write(row.on_conflict_do_nothing(index_elements=["reply_id"]))

    async def posted(self, reply_id: str, platform_id: str) -> None:
        """Store the platform id of a part; a pending final text stays pending."""
        state = case((outbox.c.state == "posting", "posted"), else_=outbox.c.state)
        this = update(outbox).where(outbox.c.reply_id == reply_id)
        await self._write(this.values(platform_id=platform_id, state=state))

    @shield_from_cancellation
    async def mark_delivered(self, reply_id: str, *, dropped: str = "") -> None:
        """Mark a final text as shown, or as dropped for a reason. Deletes its text if its question is deleted."""
        this = outbox.c.reply_id == reply_id
        question = select(turns.c.id).where(
            *(turns.c[name] == outbox.c[name] for name in KEY),
            turns.c.message_id == outbox.c.question_id,
            turns.c.role == Role.USER,
        )

        def settle(connection: Connection) -> int:
            connection.execute(
                update(outbox).where(this).values(state="dropped" if dropped else "final", dropped=dropped)
            )
            return connection.execute(update(outbox).where(this, ~question.exists()).values(_NO_TEXT)).rowcount

        if await self._database.write(settle):
            await self._database.erase_log()

    async def of_request(self, request_id: str) -> list[StoredReply]:
        """Return the parts of one answer in order."""
        return await self._found(select(outbox).where(outbox.c.request_id == request_id).order_by(outbox.c.part))

    async def get(self, reply_id: str) -> StoredReply | None:
        """Return one part, or None."""
        return await self._one(outbox.c.reply_id == reply_id)

    async def by_platform_id(self, platform: str, workspace: str, channel: str, platform_id: str) -> StoredReply | None:
        """Find a part by its platform message; None if there is none."""
        return await self._one(
            and_(
                outbox.c.platform == platform,
                outbox.c.workspace == workspace,
                outbox.c.channel == channel,
                outbox.c.platform_id == platform_id,
            )
        )

    async def undelivered(self) -> list[StoredReply]:
        """Return pending final texts of this host's ended requests, ordered by acceptance and part."""
        return await self._database.read(lambda connection: undelivered_of(connection, self._database.host))

    async def begin_showing(self, request_id: str) -> None:
        """Count this service run as killed during the delivery, until `hand_back` or the end of the delivery."""
        await self._count_runs(requests.c.request_id == request_id, 1)

    async def hand_back(self) -> None:
        """Uncount this service run for all pending final texts, at an orderly shutdown."""
        ready = select(outbox.c.request_id).where(outbox.c.state == "ready")
        ended = requests.c.status.in_(_ENDED)
        own = requests.c.host == self._database.host
        await self._count_runs(and_(requests.c.request_id.in_(ready), own, ended, requests.c.service_runs > 0), -1)

    async def _count_runs(self, which: ColumnElement[bool], by: int) -> None:
        await self._write(update(requests).where(which).values(service_runs=requests.c.service_runs + by))

    async def replace_final(self, replies: Sequence[Reply]) -> None:
        """Replace the pending final texts of these parts."""
        await self._database.write(lambda connection: put_final(connection, replies))

    async def answer(self, request_id: str) -> str:
        """Return the answer text of a request, '' if it is not stored."""
        statement = select(turns.c.text).where(turns.c.request_id == request_id, turns.c.role == Role.ASSISTANT)
        return await self._database.read(lambda connection: connection.execute(statement).scalars().first() or "")

    async def thoughts(self, request_id: str) -> str:
        """Return the thoughts of a request, '' if there are none or they are older than THOUGHTS_S."""
        return (await self._thoughts(requests.c.request_id == request_id)).get(request_id, "")

    async def all_thoughts(self, key: ConversationKey) -> dict[str, str]:
        """Return the thoughts of a conversation, by request id, that are not older than THOUGHTS_S."""
        return await self._thoughts(of_key(requests, key))

    async def _thoughts(self, which: ColumnElement[bool]) -> dict[str, str]:
        recent = thoughts.c.made_at > time.time() - THOUGHTS_S
        found = select(thoughts.c.request_id, thoughts.c.text).join(requests).where(which, recent)
        return await self._database.read(
            lambda connection: {row.request_id: row.text for row in connection.execute(found)}
        )

    async def rate(self, reply_id: str, actor_id: str, good: bool) -> None:
        """Store a user's rating of an answer; replaces an earlier one."""
        row = insert(ratings).values(reply_id=reply_id, actor_id=actor_id, good=good, rated_at=time.time())
        await self._write(
            row.on_conflict_do_update(
                index_elements=["reply_id", "actor_id"],
                set_={"good": row.excluded.good, "rated_at": row.excluded.rated_at},
            )
        )

    async def _one(self, which: ColumnElement[bool]) -> StoredReply | None:
        found = await self._found(select(outbox).where(which).limit(1))
        return found[0] if found else None

    async def _found(self, statement: Select[Any]) -> list[StoredReply]:  # Any: SQLAlchemy's, of whole tables
        return await self._database.read(
            lambda connection: [_stored_reply(row) for row in connection.execute(statement).mappings()]
        )

    async def _write(self, statement: Insert | Update) -> None:
        def write(connection: Connection) -> None:
            connection.execute(statement)

        await self._database.write(write)


def usage_json(usage: Usage | None) -> str | None:
    """Serialize a usage record."""
    return None if usage is None else _USAGE.dump_json(usage).decode()


def usage_of(stored: str | None) -> Usage | None:
    """Deserialize a usage record."""
    return None if stored is None else _USAGE.validate_json(stored)


def undelivered_of(connection: Connection, host: str) -> list[StoredReply]:
    """Pending final texts of the ended requests that a host holds, inside a transaction."""
    statement = (
        select(outbox, requests.c.service_runs)
        .join(requests)
        .where(outbox.c.state == "ready", requests.c.status.in_(_ENDED), requests.c.host == host)
        .order_by(requests.c.id, outbox.c.part)
    )
    rows = connection.execute(statement).mappings()
    return [replace(_stored_reply(row), service_runs=row["service_runs"]) for row in rows]


def put_final(connection: Connection, replies: Sequence[Reply]) -> None:
    """Store pending final texts inside a transaction; keeps known platform ids."""
    for reply in replies:
        values = _values(reply)
        row = insert(outbox).values(**values, state="ready", dropped="")
        newer = {name: row.excluded[name] for name in values if name not in ("reply_id", "platform_id")}
        connection.execute(
            row.on_conflict_do_update(
                index_elements=["reply_id"],
                set_={
                    **newer,
                    "platform_id": func.coalesce(outbox.c.platform_id, row.excluded.platform_id),
                    "state": "ready",
                    "dropped": "",
                },
            )
        )


def blank(connection: Connection, which: ColumnElement[bool], *, pending: bool = True) -> int:
    """Remove text and names from the selected requests and their parts, and thoughts, inside a transaction.

    pending: also drop pending final texts; otherwise these keep their text until they are delivered. Returns the number
    of requests.
    """
    theirs = outbox.c.request_id.in_(select(requests.c.request_id).where(which))
    ready = outbox.c.state == "ready"
    if pending:
        connection.execute(
            update(outbox).where(theirs, ready).values(state="dropped", dropped="The conversation was forgotten.")
        )
    connection.execute(update(outbox).where(theirs, *([] if pending else [~ready])).values(_NO_TEXT))
    connection.execute(delete(thoughts).where(thoughts.c.request_id.in_(select(requests.c.request_id).where(which))))
    blanked = connection.execute(update(requests).where(which).values(author_name="", error="", remark=""))
    return blanked.rowcount


def _values(reply: Reply) -> dict[str, str | int | bool | None]:
    return {
        "reply_id": reply.reply_id,
        "request_id": reply.request_id,
        **asdict(reply.key),
        "part": reply.part,
        "question_id": reply.question_id,
        "asker_id": reply.asker.id,
        "asker_name": reply.asker.name,
        "committed": reply.committed,
        "final": reply.final,
        "buttons": _BUTTONS.dump_json(reply.buttons).decode(),
        "attachment_name": reply.attachment.name if reply.attachment else None,
        "attachment_text": reply.attachment.text if reply.attachment else None,
        "platform_id": reply.platform_id,
        "finish_reason": reply.finish_reason,
        "usage": usage_json(reply.usage),
    }


def _stored_reply(row: RowMapping) -> StoredReply:
    name, reason = row["attachment_name"], row["finish_reason"]
    reply = Reply(
        reply_id=row["reply_id"],
        request_id=row["request_id"],
        key=key_of(row),
        part=row["part"],
        question_id=row["question_id"],
        asker=Person(row["asker_id"], row["asker_name"]),
        committed=row["committed"],
        final=row["final"],
        buttons=_BUTTONS.validate_json(row["buttons"]),
        platform_id=row["platform_id"],
        attachment=None if name is None else Attachment(name, row["attachment_text"]),
        finish_reason=None if reason is None else FinishReason(reason),
        usage=usage_of(row["usage"]),
    )
    return StoredReply(reply, row["state"])
