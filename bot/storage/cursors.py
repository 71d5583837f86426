"""Stores a backfill cursor per channel and thread; a cursor never moves backwards."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, select

from bot.storage.database import Database
from bot.storage.dialect import insert
from bot.storage.tables import KEY, cursors, key_of
from bot.types.messages import ConversationKey


@dataclass(frozen=True, slots=True)
class Cursor:
    """The newest handled message of a channel or thread."""

    key: ConversationKey
    message_id: str
    sent_at: float


class Cursors:
    """All cursors. All methods raise StorageError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, moved: Sequence[Cursor]) -> None:
        """Advance these cursors; keeps stored ones that are newer."""

        def save(connection: Connection) -> None:
            for cursor in moved:
                row = insert(cursors).values(**asdict(cursor.key), message_id=cursor.message_id, sent_at=cursor.sent_at)
                newer = {"message_id": row.excluded.message_id, "sent_at": row.excluded.sent_at}
                connection.execute(
                    row.on_conflict_do_update(
                        index_elements=KEY, set_=newer, where=cursors.c.sent_at <= row.excluded.sent_at
                    )
                )

        await self._database.write(save)

    async def of_platform(self, platform: str) -> list[Cursor]:
        """Cursors of a platform, most recently active channel first."""

        def read(connection: Connection) -> list[Cursor]:
            found = connection.execute(
                select(cursors).where(cursors.c.platform == platform).order_by(cursors.c.sent_at.desc())
            )
            return [Cursor(key_of(row), row["message_id"], row["sent_at"]) for row in found.mappings()]

        return await self._database.read(read)
