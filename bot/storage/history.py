"""Stores the turns and settings of each conversation.

Reads return turns of exactly one conversation, in the order in which they were sent. A message is stored as one turn,
even if it is added again. Deleted text leaves no copy in the database files.
"""

from collections.abc import Sequence, Set
from dataclasses import asdict, replace

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    RowMapping,
    Update,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)

from bot.storage.database import Database, shield_from_cancellation
from bot.storage.dialect import Insert, insert
from bot.storage.outbox import blank
from bot.storage.picture_store import add_pictures, pictures_of, replace_pictures
from bot.storage.row_types import NewTurn, StoredTurn
from bot.storage.tables import KEY, key_of, of_key, of_message, outbox, requests, settings, turns
from bot.types.messages import ConversationKey, Picture, RequestKind, Role, Turn

IDENTITY = (*KEY, "message_id", "role")
"""Columns that identify a turn."""
_RESOLVED = (
    select(settings.c.name, settings.c.value)
    .where(
        *(settings.c[name] == bindparam(name) for name in KEY if name != "thread"),
        or_(settings.c.thread == "", settings.c.thread == bindparam("thread")),
    )
    .order_by(settings.c.thread)  # channel rows (thread '') first, so that the thread's override
)
_TURN = insert(turns).on_conflict_do_nothing(index_elements=IDENTITY).execution_options(preserve_rowcount=True)


class History:
    """Turns and settings of all conversations. All methods raise StorageError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def turns(
        self, key: ConversationKey, *, until: str | None = None, limit: int = 400, step: int = 1, hidden: bool = False
    ) -> list[StoredTurn]:
        """Return the newest turns, at most `limit`, oldest first. `hidden`: include turns from before a reset.

        step: drop the oldest turns in multiples of `step` if there are more than `limit`, so that the first returned
        turn stays the same for several requests.

        until: message id of a question. Later turns are left out; returns nothing if the question is not stored, and
        includes the question itself even after a reset.
        """

        def read(connection: Connection) -> list[StoredTurn]:
            statement = select(turns).where(of_key(turns, key))
            visible: ColumnElement[bool] = turns.c.hidden.is_(False)
            if until is not None:
                question = question_turn(connection, key, until)
                if question is None:
                    return []
                statement = statement.where(_place <= tuple_(question["sent_at"], question["id"]))
                visible = or_(visible, turns.c.id == question["id"])
            if not hidden:
                statement = statement.where(visible)
            number = connection.execute(select(func.count()).select_from(statement.subquery())).scalar_one()
            left_out = -(-max(0, number - limit) // step) * step
            found = connection.execute(statement.order_by(turns.c.sent_at, turns.c.id).offset(left_out))
            return [_stored_turn(row) for row in found.mappings()]

        return await self._database.read(read)

    async def replied_to(self, key: ConversationKey, message_ids: Set[str], depth: int) -> dict[str, StoredTurn]:
        """Return the turns of these messages, by platform id, and those that they reply to, `depth` levels of them.

        Includes turns from before a reset. For a message of an answer it is the answer's turn, with the text of that
        message if the answer has several.
        """

        def read(connection: Connection) -> dict[str, StoredTurn]:
            found: dict[str, StoredTurn] = {}
            wanted = message_ids - {""}
            for _ in range(depth):
                if not wanted:
                    break
                level = _people_turns(connection, key, wanted) | _answer_turns(connection, key, wanted)
                found |= level
                wanted = {turn.reply_to for turn in level.values()} - {"", *found}
            return found

        if message_ids <= {""}:
            return {}
        return await self._database.read(read)

    async def pictures(self, turn_ids: Sequence[int], most: int) -> dict[int, tuple[Picture, ...]]:
        """Return the pictures of turns by the turn's id, at most `most`; those of the first turns are preferred."""
        return await self._database.read(lambda connection: pictures_of(connection, turn_ids, most))

    async def add(self, turn: NewTurn) -> None:
        """Store a turn; keeps the stored one if the message is a duplicate."""
        await self._database.write(lambda connection: add_turn(connection, turn))

    @shield_from_cancellation
    async def edit(
        self,
        key: ConversationKey,
        message_id: str,
        text: str,
        pictures: Sequence[Picture] = (),
        *,
        edited_at: float = 0.0,
        everywhere: bool = False,
    ) -> bool:
        """Change the text and the pictures of a user's message; False if it is not stored or its text is unchanged.

        edited_at: an edit that is older than the stored text changes nothing, since edits may arrive in any order.
        everywhere: also change its copies in other conversations of the channel, where it is context.
        """
        differs = turns.c.text != text
        this = and_(
            of_message(turns, key, message_id, everywhere),
            turns.c.role == Role.USER,
            turns.c.edited_at <= edited_at,  # Slack's edits of one second have the same time
            or_(differs, turns.c.edited_at < edited_at),
        )
        # locked, since another host may store a newer edit at the same time
        stale = select(turns, differs.label("differs")).where(this).with_for_update()

        def edit(connection: Connection) -> int:
            found = connection.execute(stale).mappings().all()
            edited = turns.c.id.in_([row["id"] for row in found])
            connection.execute(update(turns).where(edited).values(text=text, edited_at=edited_at))
            changed = [row for row in found if row["differs"]]
            for row in changed:
                replace_pictures(connection, key_of(row), row["id"], pictures)
            return len(changed)

        changed = await self._database.write(edit)
        if changed:
            await self._database.erase_log()
        return changed > 0

    @shield_from_cancellation
    async def remove_message(self, key: ConversationKey, message_id: str, *, everywhere: bool = False) -> int:
        """Delete a message's turn and its answers, and blank the answers' parts; returns the number of deleted turns.

        everywhere: also delete its copies in other conversations of the channel, where it is context.
        """

        def remove(connection: Connection) -> tuple[int, int]:
            this = of_message(turns, key, message_id, everywhere)
            _lock(connection, this)
            gone = connection.execute(delete(turns).where(this))
            return gone.rowcount, blank(connection, of_message(requests, key, message_id, everywhere))

        gone, blanked = await self._database.write(remove)
        if gone or blanked:  # most deleted messages were never stored
            await self._database.erase_log()
        return gone

    @shield_from_cancellation
    async def undo(self, key: ConversationKey, asker_id: str | None = None) -> StoredTurn | None:
        """Delete the newest visible user turn and all later turns; returns that turn, or None.

        asker_id: delete the newest question that this user asked, and only its answers with it.
        """
        visible = and_(of_key(turns, key), turns.c.hidden.is_(False))
        newest = select(turns).where(visible, turns.c.role == Role.USER)
        if asker_id is not None:
            newest = newest.where(_asked_by(key, asker_id))

        def undo(connection: Connection) -> StoredTurn | None:
            newest_first = newest.order_by(turns.c.sent_at.desc(), turns.c.id.desc())
            found = connection.execute(newest_first.limit(1).with_for_update())
            last = found.mappings().one_or_none()
            if last is None:
                return None
            undone = and_(visible, _place >= tuple_(last["sent_at"], last["id"]))
            if asker_id is not None:
                undone = and_(visible, turns.c.message_id == last["message_id"])
            ids = set(connection.execute(select(turns.c.message_id).where(undone)).scalars())
            connection.execute(delete(turns).where(undone))
            blank(connection, and_(of_key(requests, key), requests.c.message_id.in_(ids)), pending=False)
            return _stored_turn(last)

        last = await self._database.write(undo)
        if last is not None:
            await self._database.erase_log()
        return last

    async def reset(self, key: ConversationKey) -> int:
        """Hide all turns from later prompts; returns the number of newly hidden turns."""
        visible = and_(of_key(turns, key), turns.c.hidden.is_(False))

        def reset(connection: Connection) -> int:
            _lock(connection, visible)
            return connection.execute(update(turns).where(visible).values(hidden=True)).rowcount

        return await self._database.write(reset)

    @shield_from_cancellation
    async def forget(self, key: ConversationKey) -> tuple[int, set[str]]:
        """Delete all turns and blank all parts; returns as `forget_author`. Requests keep their ids, without text."""
        every = of_key(turns, key)

        def forget(connection: Connection) -> tuple[int, set[str]]:
            ids = set(connection.execute(select(turns.c.message_id).where(every).with_for_update()).scalars())
            gone = connection.execute(delete(turns).where(every))
            blank(connection, of_key(requests, key))
            return gone.rowcount, ids

        gone, ids = await self._database.write(forget)
        await self._database.erase_log()
        return gone, ids

    @shield_from_cancellation
    async def forget_author(self, key: ConversationKey, author_id: str, *, last: bool = False) -> tuple[int, set[str]]:
        """Delete a user's turns and the answers to them, as `forget` does; `last`: only the newest one.

        Returns the number of deleted turns, and the ids of the deleted messages.
        """
        theirs = (
            select(turns.c.message_id)
            .where(of_key(turns, key), turns.c.author_id == author_id, turns.c.role == Role.USER)
            .order_by(turns.c.sent_at.desc(), turns.c.id.desc())
            .limit(1 if last else None)
            .with_for_update()
        )

        def forget(connection: Connection) -> tuple[int, set[str]]:
            ids = set(connection.execute(theirs).scalars())
            blank(connection, and_(of_key(requests, key), requests.c.message_id.in_(ids)))
            gone = connection.execute(delete(turns).where(of_key(turns, key), turns.c.message_id.in_(ids)))
            return gone.rowcount, ids

        gone, ids = await self._database.write(forget)
        if ids:
            await self._database.erase_log()
        return gone, ids

    async def authors(self, key: ConversationKey, message_id: str) -> set[str]:
        """Ids of the users who wrote a message of this channel, as a question or as context."""
        this = select(turns.c.author_id).where(of_message(turns, key, message_id, True), turns.c.role == Role.USER)
        return await self._database.read(lambda connection: set(connection.execute(this).scalars()))

    async def settings(self, key: ConversationKey) -> dict[str, str]:
        """Settings that are stored for exactly this key, by name."""
        own = select(settings.c.name, settings.c.value).where(of_key(settings, key))
        return await self._database.read(lambda connection: {row.name: row.value for row in connection.execute(own)})

    async def set(self, key: ConversationKey, name: str, value: str | None) -> None:
        """Store a setting; None deletes it."""
        if value is None:
            await self._changed(delete(settings).where(of_key(settings, key), settings.c.name == name))
            return
        made = insert(settings).values(**asdict(key), name=name, value=value)
        await self._changed(
            made.on_conflict_do_update(index_elements=[*KEY, "name"], set_={"value": made.excluded.value})
        )

    async def resolved(self, key: ConversationKey) -> dict[str, str]:
        """Effective settings: the channel's, overridden by the thread's."""
        return await self._database.read(lambda connection: resolved(connection, key))

    async def first_asked_at(self, key: ConversationKey) -> float | None:
        """When the first question of this conversation that is still stored was sent; None if there is none."""
        asked = select(requests.c.message_id).where(of_key(requests, key))
        first = select(func.min(turns.c.sent_at)).where(
            of_key(turns, key), turns.c.role == Role.USER, turns.c.message_id.in_(asked)
        )
        found: float | None = await self._database.read(lambda connection: connection.execute(first).scalar_one())
        return found

    async def following(self, key: ConversationKey) -> bool:
        """Whether this conversation has stored turns or requests."""
        turn = select(turns.c.id).where(of_key(turns, key)).exists()
        asked = select(requests.c.id).where(of_key(requests, key)).exists()
        return await self._database.read(
            lambda connection: bool(connection.execute(select(or_(turn, asked))).scalar_one())
        )

    async def _changed(self, statement: Insert | Update | Delete) -> int:
        """Execute a statement; returns the number of changed rows."""
        return await self._database.write(lambda connection: connection.execute(statement).rowcount)


_place = tuple_(turns.c.sent_at, turns.c.id)


def as_turn(stored: StoredTurn, pictures: tuple[Picture, ...] = ()) -> Turn:
    """Convert a stored turn for a prompt."""
    return Turn(stored.role, stored.author, stored.text, stored.message_id, stored.sent_at, pictures)


def resolved(connection: Connection, key: ConversationKey) -> dict[str, str]:
    """Effective settings of a conversation, inside a transaction."""
    return {row.name: row.value for row in connection.execute(_RESOLVED, asdict(key))}


def add_turn(connection: Connection, turn: NewTurn) -> None:
    """Store a turn inside a transaction; skips a duplicate of the same message, other conflicts raise."""
    row = {
        **asdict(turn.key),
        "role": turn.role,
        "author_id": turn.author_id,
        "author": turn.author,
        "text": turn.text,
        "message_id": turn.message_id,
        "sent_at": turn.sent_at,
        "reply_to": turn.reply_to,
        "edited_at": turn.edited_at,
    }
    added = connection.execute(_TURN, row)
    stored = added.inserted_primary_key if added.rowcount > 0 else None
    if stored is not None and turn.pictures:
        add_pictures(connection, turn.key, stored.id, turn.pictures)


def _lock(connection: Connection, which: ColumnElement[bool]) -> None:
    """Lock turns inside a transaction, so that another host has stored the answers to them, or stores none."""
    connection.execute(select(turns.c.id).where(which).with_for_update())


def _asked_by(key: ConversationKey, asker_id: str) -> ColumnElement[bool]:
    """A turn that this user asked an answer to."""
    return (
        select(requests.c.id)
        .where(
            of_key(requests, key),
            requests.c.message_id == turns.c.message_id,
            requests.c.author_id == asker_id,
            requests.c.kind == RequestKind.ANSWER,
        )
        .exists()
    )


def _people_turns(connection: Connection, key: ConversationKey, message_ids: Set[str]) -> dict[str, StoredTurn]:
    this = and_(of_key(turns, key), turns.c.role == Role.USER, turns.c.message_id.in_(message_ids))
    return {row["message_id"]: _stored_turn(row) for row in connection.execute(select(turns).where(this)).mappings()}


def _answer_turns(connection: Connection, key: ConversationKey, message_ids: Set[str]) -> dict[str, StoredTurn]:
    """The answers that these messages show; with the text of the message where it is only a part of the answer."""
    part = outbox.alias()
    parts = select(func.count()).where(part.c.request_id == outbox.c.request_id).scalar_subquery()
    is_whole = and_(outbox.c.request_id == turns.c.request_id, parts == 1)
    statement = (
        select(turns, outbox.c.platform_id, outbox.c.committed, is_whole.label("is_whole"))
        .join(outbox, outbox.c.question_id == turns.c.message_id)
        .where(of_key(turns, key), turns.c.role == Role.ASSISTANT)
        .where(of_key(outbox, key), outbox.c.platform_id.in_(message_ids))
    )
    return {
        row["platform_id"]: replace(_stored_turn(row), text=row["text"] if row["is_whole"] else row["committed"])
        for row in connection.execute(statement).mappings()
    }


def _is_question(key: ConversationKey, message_id: str) -> ColumnElement[bool]:
    return and_(of_key(turns, key), turns.c.message_id == message_id, turns.c.role == Role.USER)


def question_turn(
    connection: Connection, key: ConversationKey, message_id: str, *, lock: bool = False
) -> RowMapping | None:
    """Return the row of a user's message, inside a transaction. lock: against transactions of other hosts."""
    this = select(turns).where(_is_question(key, message_id))
    return connection.execute(this.with_for_update() if lock else this).mappings().one_or_none()


def _stored_turn(row: RowMapping) -> StoredTurn:
    return StoredTurn(
        id=row["id"],
        role=Role(row["role"]),
        author_id=row["author_id"],
        author=row["author"],
        text=row["text"],
        message_id=row["message_id"],
        sent_at=row["sent_at"],
        request_id=row["request_id"],
        reply_to=row["reply_to"],
    )
