"""Exports all stored records of conversations or of a user as dictionaries.

`record` names the type: setting, turn, picture (without its data), request, thought (only if they are asked for), part
(a message of an answer), rating, event (platform id of a handled event, for deduplication) or cursor (backfill position
of a channel); the other keys are the table's columns. Times are Unix seconds. Each page is a separate short read, so
that a slow consumer blocks no writer.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import ColumnElement, Connection, Table, and_, exists, false, or_, select, true, tuple_

from bot.storage.outbox import THOUGHTS_S
from bot.storage.readonly import open_read_only
from bot.storage.tables import KEY, cursors, inbox, outbox, pictures, ratings, requests, settings, thoughts, turns
from bot.types.messages import Role

PAGE_ROWS = 500
_JSON = ("params", "usage", "buttons")
_RECORDS = {
    "setting": settings,
    "turn": turns,
    "picture": pictures,
    "request": requests,
    "thought": thoughts,
    "part": outbox,
    "rating": ratings,
    "event": inbox,
    "cursor": cursors,
}


@dataclass(frozen=True, slots=True)
class ExportFilter:
    """Selects records.

    places: prefixes of conversation keys (platform, workspace, channel, thread); none selects all. person: platform and
    user id; selects the user's turns, requests and ratings, and the answers to them. thoughts: whether they are in it.
    """

    places: Sequence[tuple[str, ...]] = ()
    person: tuple[str, str] | None = None
    thoughts: bool = False


def records(
    directory: Path, filter_: ExportFilter, url: SecretStr | None = None
) -> Iterator[dict[str, Any]]:  # Any: what JSON takes
    """Yield the selected records, table by table, of a state directory or of the database at `url`.

    Raises ConfigError if there is no usable database, StorageError.
    """
    with open_read_only(directory, url) as connection:
        for name, table in _RECORDS.items():
            if table is thoughts and not filter_.thoughts:
                continue
            recent = thoughts.c.made_at > time.time() - THOUGHTS_S if table is thoughts else true()
            for row in _rows(connection, table, and_(recent, _in_places(table, filter_), _of_person(table, filter_))):
                yield {"record": name, **row}


def _rows(connection: Connection, table: Table, which: ColumnElement[bool]) -> Iterator[dict[str, Any]]:
    place, columns = list(table.primary_key.columns), [each for each in table.columns if each is not pictures.c.data]
    after: ColumnElement[bool] = true()
    while True:
        page = select(*columns).where(which, after).order_by(*place).limit(PAGE_ROWS)
        found = connection.execute(page).mappings().all()
        for row in found:
            yield {name: json.loads(value) if name in _JSON and value else value for name, value in row.items()}
        if len(found) < PAGE_ROWS:
            return
        after = tuple_(*place) > tuple_(*(found[-1][column.name] for column in place))


def _in_places(table: Table, filter_: ExportFilter) -> ColumnElement[bool]:
    if not filter_.places:
        return true()
    if table is ratings:
        return ratings.c.reply_id.in_(select(outbox.c.reply_id).where(_in_places(outbox, filter_)))
    if table is pictures:
        return pictures.c.turn_id.in_(select(turns.c.id).where(_in_places(turns, filter_)))
    if table is thoughts:
        return thoughts.c.request_id.in_(select(requests.c.request_id).where(_in_places(requests, filter_)))
    return or_(
        *(and_(*(table.c[name] == value for name, value in zip(KEY, place, strict=False))) for place in filter_.places)
    )


def _of_person(table: Table, filter_: ExportFilter) -> ColumnElement[bool]:
    if filter_.person is None:
        return true()
    platform, person = filter_.person
    message = turns.alias("message")
    theirs = and_(message.c.platform == platform, message.c.author_id == person, message.c.role == Role.USER)
    asked = select(requests.c.request_id).where(requests.c.platform == platform, requests.c.author_id == person)
    if table is turns:
        mine = and_(turns.c.platform == platform, turns.c.author_id == person)
        return or_(mine, exists().where(theirs, _same_message(turns, message)), turns.c.request_id.in_(asked))
    if table is pictures:
        return pictures.c.turn_id.in_(select(turns.c.id).where(_of_person(turns, filter_)))
    if table is requests:
        mine = and_(requests.c.platform == platform, requests.c.author_id == person)
        return or_(mine, exists().where(theirs, _same_message(requests, message)))
    if table in (outbox, thoughts):
        return table.c.request_id.in_(select(requests.c.request_id).where(_of_person(requests, filter_)))
    if table is ratings:
        there = select(outbox.c.reply_id).where(outbox.c.platform == platform)
        return and_(ratings.c.actor_id == person, ratings.c.reply_id.in_(there))
    if table is inbox:
        return and_(
            inbox.c.platform == platform,
            or_(
                exists().where(theirs, *_is_event_of(message)),
                exists().where(requests.c.author_id == person, *_is_event_of(requests)),
            ),
        )
    return false()


def _same_message(table: Table, message: Any) -> ColumnElement[bool]:  # Any: an alias is no Table
    """The rows have the same message in the same conversation."""
    return and_(*(table.c[name] == message.c[name] for name in (*KEY, "message_id")))


def _is_event_of(table: Any) -> list[ColumnElement[bool]]:
    """The event is a message of this table."""
    names = ("platform", "workspace", "channel")
    return [*(table.c[name] == inbox.c[name] for name in names), table.c.message_id == inbox.c.identity]
