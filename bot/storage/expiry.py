"""Deletes expired rows in small transactions, so that other writes wait for one step at most.

Keeps everything that is pending, at any age: waiting and running requests with their questions, and final texts that
are not shown yet. Deleted text leaves no copy in the database files once `erase` returned True.
"""

from sqlalchemy import Connection, Exists, and_, delete, exists, select, tuple_

from bot.storage.database import Database, shield_from_cancellation
from bot.storage.tables import KEY, inbox, outbox, pictures, ratings, requests, thoughts, turns
from bot.types.messages import RequestStatus

STEP_ROWS = 100
"""Maximum rows per table and step."""

STEP_PICTURES = 10
"""Maximum pictures per step, which take up to a megabyte each."""


class Expiry:
    """Deletes rows by age. All methods raise StorageError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def step(self, before: float, seen_before: float) -> int:
        """Delete some turns and ended requests from before `before`; returns the number of rows, 0 when done.

        seen_before: also delete event ids older than this, which deduplication no longer needs.
        """
        return await self._database.write(
            lambda connection: (
                _pictures(connection, before)
                or _turns(connection, before) + _requests(connection, before) + _identities(connection, seen_before)
            )
        )

    async def thoughts(self, before: float) -> int:
        """Delete some thoughts from before `before`; returns their number, 0 when done."""
        old = select(thoughts.c.request_id).where(thoughts.c.made_at < before).limit(STEP_ROWS)
        return await self._database.write(
            lambda connection: connection.execute(delete(thoughts).where(thoughts.c.request_id.in_(old))).rowcount
        )

    async def trim(self) -> bool:
        """Return some free pages to the file system; False if none is left or the file does not support it."""
        return await self._database.trim()

    @shield_from_cancellation
    async def erase(self, *, anew: bool = False) -> bool:
        """Truncate the log if it may contain deleted text; False if a reader of another process prevents it.

        anew: rows were deleted since the last call.
        """
        if anew or self._database.log_to_erase:
            await self._database.erase_log()
        return not self._database.log_to_erase


_PENDING = (RequestStatus.WAITING, RequestStatus.RUNNING)


def _pictures(connection: Connection, before: float) -> int:
    old = select(pictures.c.id).join(turns).where(turns.c.sent_at < before, ~_asked()).limit(STEP_PICTURES)
    return connection.execute(delete(pictures).where(pictures.c.id.in_(old))).rowcount


def _turns(connection: Connection, before: float) -> int:
    old = select(turns.c.id).where(turns.c.sent_at < before, ~_asked()).limit(STEP_ROWS)
    return connection.execute(delete(turns).where(turns.c.id.in_(old))).rowcount


def _asked() -> Exists:
    """Whether a turn is the question of a pending request."""
    return exists().where(
        *(requests.c[name] == turns.c[name] for name in KEY),
        requests.c.message_id == turns.c.message_id,
        requests.c.status.in_(_PENDING),
    )


def _requests(connection: Connection, before: float) -> int:
    """Delete ended requests with their parts, ratings and thoughts."""
    unseen = exists().where(outbox.c.request_id == requests.c.request_id, outbox.c.state == "ready")
    has_turns = exists().where(turns.c.request_id == requests.c.request_id)
    old = requests.c.finished_at < before
    found = connection.execute(
        select(requests.c.request_id)
        .where(and_(old, requests.c.status.not_in(_PENDING), ~unseen, ~has_turns))
        .limit(STEP_ROWS)
    )
    ids = list(found.scalars())
    parts = select(outbox.c.reply_id).where(outbox.c.request_id.in_(ids))
    gone = [
        connection.execute(delete(ratings).where(ratings.c.reply_id.in_(parts))),
        connection.execute(delete(thoughts).where(thoughts.c.request_id.in_(ids))),
        connection.execute(delete(outbox).where(outbox.c.request_id.in_(ids))),
        connection.execute(delete(requests).where(requests.c.request_id.in_(ids))),
    ]
    return sum(each.rowcount for each in gone)


def _identities(connection: Connection, before: float) -> int:
    key = tuple(inbox.primary_key.columns)
    old = select(*key).where(inbox.c.received_at < before).limit(STEP_ROWS)
    return connection.execute(delete(inbox).where(tuple_(*key).in_(old))).rowcount
