"""The removal of what is too old, a little at a time, so that nobody who writes has to wait for it.

In: moments. Out: what happened before them is gone from the file. Promises: what is still owed stays, whatever its age
(a request that waits or runs with its question, a final text that is not shown yet); one step is one short transaction;
what was removed leaves no copy in the files once `erase` has returned True.
"""

from sqlalchemy import Connection, and_, delete, exists, select, tuple_

from bot.storage.database import Database, undisturbed
from bot.storage.tables import KEY, inbox, outbox, ratings, requests, turns
from bot.types.messages import RequestStatus

STEP_ROWS = 100
"""Rows of each table in one step."""

STEP_PAGES = 100
"""Pages of the file that are given back in one step."""


class Expiry:
    """Removes by age. All methods raise StorageError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def step(self, before: float, seen_before: float) -> int:
        """Remove some of what was said and answered before `before`; the number of rows, 0 when nothing is left.

        seen_before: the identities of older events are no longer needed to tell that an event comes again.
        """
        return await self._database.write(
            lambda connection: (
                _turns(connection, before) + _requests(connection, before) + _identities(connection, seen_before)
            )
        )

    async def trim(self) -> bool:
        """Give some of the file's free pages back to the disk; False when there are none, or the file cannot."""
        return await self._database.write(_trim)

    @undisturbed
    async def erase(self, *, anew: bool = False) -> bool:
        """Empty the write-ahead log of deleted text, if that is still to be done; False if somebody is reading it.

        anew: something was removed just now.
        """
        if anew or self._database.log_to_erase:
            await self._database.erase_log()
        return not self._database.log_to_erase


INCREMENTAL = 2
"""SQLite's number for a file whose free pages can be given back."""

_OWED = (RequestStatus.WAITING, RequestStatus.RUNNING)


def _trim(connection: Connection) -> bool:
    mode = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one()
    free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    if mode != INCREMENTAL or not free:
        return False
    for _ in range(min(free, STEP_PAGES)):  # Python's driver takes one step of a pragma, which is one page
        connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return bool(free > STEP_PAGES)


def _turns(connection: Connection, before: float) -> int:
    asked = exists().where(
        *(requests.c[name] == turns.c[name] for name in KEY),
        requests.c.message_id == turns.c.message_id,
        requests.c.status.in_(_OWED),
    )
    old = select(turns.c.id).where(turns.c.sent_at < before, ~asked).limit(STEP_ROWS)
    return connection.execute(delete(turns).where(turns.c.id.in_(old))).rowcount


def _requests(connection: Connection, before: float) -> int:
    """Requests that ended, with their parts and what people thought of them."""
    unseen = exists().where(outbox.c.request_id == requests.c.request_id, outbox.c.state == "ready")
    kept = exists().where(turns.c.request_id == requests.c.request_id)
    old = requests.c.finished_at < before
    found = connection.execute(
        select(requests.c.request_id).where(and_(old, requests.c.status.not_in(_OWED), ~unseen, ~kept)).limit(STEP_ROWS)
    )
    ids = list(found.scalars())
    parts = select(outbox.c.reply_id).where(outbox.c.request_id.in_(ids))
    gone = [
        connection.execute(delete(ratings).where(ratings.c.reply_id.in_(parts))),
        connection.execute(delete(outbox).where(outbox.c.request_id.in_(ids))),
        connection.execute(delete(requests).where(requests.c.request_id.in_(ids))),
    ]
    return sum(each.rowcount for each in gone)


def _identities(connection: Connection, before: float) -> int:
    key = tuple(inbox.primary_key.columns)
    old = select(*key).where(inbox.c.received_at < before).limit(STEP_ROWS)
    return connection.execute(delete(inbox).where(tuple_(*key).in_(old))).rowcount
