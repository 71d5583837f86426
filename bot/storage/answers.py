"""Stores answers and their thoughts, inside the transaction that stores how their request ended."""

import time

from sqlalchemy import Connection, and_, literal, select

from bot.storage.dialect import insert
from bot.storage.history import IDENTITY, question_turn
from bot.storage.tables import KEY, requests, thoughts, turns
from bot.types.messages import ConversationKey, Role


def lock_question(connection: Connection, request_id: str) -> None:
    """Lock a request's question inside a transaction: another host deletes it, with its answer, before or after."""
    its_question = and_(
        *(turns.c[name] == requests.c[name] for name in KEY),
        turns.c.message_id == requests.c.message_id,
        turns.c.role == Role.USER,
    )
    this = select(turns.c.id).join(requests, its_question).where(requests.c.request_id == request_id)
    connection.execute(this.with_for_update(of=turns))


def put_answer(connection: Connection, request_id: str, text: str) -> None:
    """Store `text` as the only answer to a request's question, inside a transaction; skips a deleted question."""
    found = connection.execute(select(requests).where(requests.c.request_id == request_id))
    asked = found.mappings().one()
    key = {name: asked[name] for name in KEY}
    question = question_turn(connection, ConversationKey(**key), asked["message_id"])
    if question is None:
        return
    row = insert(turns).values(
        **key,
        role=Role.ASSISTANT,
        author_id="",
        author="",
        text=text,
        message_id=asked["message_id"],
        sent_at=question["sent_at"],  # sorts directly after its question
        request_id=request_id,
        hidden=question["hidden"],
    )
    connection.execute(
        row.on_conflict_do_update(
            index_elements=IDENTITY,
            set_={"text": row.excluded.text, "request_id": row.excluded.request_id, "hidden": row.excluded.hidden},
        )
    )


def put_thoughts(connection: Connection, request_id: str, text: str) -> None:
    """Store the thoughts of an answer inside a transaction; skips a deleted question."""
    this = select(requests.c.request_id, literal(text), literal(time.time())).where(
        requests.c.request_id == request_id,
        select(turns.c.id)
        .where(
            *(turns.c[name] == requests.c[name] for name in KEY),
            turns.c.message_id == requests.c.message_id,
            turns.c.role == Role.USER,
        )
        .exists(),
    )
    row = insert(thoughts).from_select(["request_id", "text", "made_at"], this)
    newer = {"text": row.excluded.text, "made_at": row.excluded.made_at}
    connection.execute(row.on_conflict_do_update(index_elements=["request_id"], set_=newer))
