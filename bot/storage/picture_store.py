"""Stores the pictures of turns, bounded for each conversation and in total; a deleted turn takes its pictures with it.

Functions run inside a transaction.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select

from bot.storage.tables import of_key, pictures, turns
from bot.types.messages import ConversationKey, Picture

KEPT = 20
"""Most pictures of a conversation; the oldest ones are deleted."""
MAX_TOTAL = 1_000_000_000
"""Most bytes of all pictures; the oldest ones are deleted."""
STEP = 20
"""Pictures deleted at once while the total is exceeded."""


def add_pictures(connection: Connection, key: ConversationKey, turn_id: int, found: Sequence[Picture]) -> None:
    """Store the pictures of a turn, and delete the oldest ones beyond the limits."""
    if not found:
        return
    rows = [
        {
            "turn_id": turn_id,
            "name": each.name.encode("utf-8", "replace").decode(),
            "kind": each.kind,
            "width": each.width,
            "height": each.height,
            "size": len(each.data),
            "data": each.data,
        }
        for each in found
    ]
    connection.execute(insert(pictures), rows)
    theirs = select(pictures.c.id).join(turns).where(of_key(turns, key))
    order = (turns.c.sent_at.desc(), turns.c.id.desc(), pictures.c.id.desc())
    connection.execute(delete(pictures).where(pictures.c.id.in_(theirs.order_by(*order).offset(KEPT))))
    while connection.execute(select(func.sum(pictures.c.size))).scalar_one() > MAX_TOTAL:
        oldest = select(pictures.c.id).order_by(pictures.c.id).limit(STEP)
        connection.execute(delete(pictures).where(pictures.c.id.in_(oldest)))


def replace_pictures(connection: Connection, key: ConversationKey, turn_id: int, found: Sequence[Picture]) -> None:
    """Store these pictures of a turn instead of those that it has."""
    connection.execute(delete(pictures).where(pictures.c.turn_id == turn_id))
    add_pictures(connection, key, turn_id, found)


def pictures_of(connection: Connection, turn_ids: Sequence[int], most: int) -> dict[int, tuple[Picture, ...]]:
    """Return the pictures of turns by the turn's id, at most `most`; those of the first turns are preferred."""
    places = {turn_id: place for place, turn_id in reversed(list(enumerate(turn_ids)))}
    known = select(pictures.c.id, pictures.c.turn_id).where(pictures.c.turn_id.in_(places)).order_by(pictures.c.id)
    rows = sorted(connection.execute(known).all(), key=lambda row: places[row.turn_id])[:most]
    found: dict[int, tuple[Picture, ...]] = {}
    for row in connection.execute(
        select(pictures).where(pictures.c.id.in_([row.id for row in rows])).order_by(pictures.c.id)
    ):
        picture = Picture(row.name, row.kind, row.data, row.width, row.height)
        found[row.turn_id] = (*found.get(row.turn_id, ()), picture)
    return found
