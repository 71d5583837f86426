"""Everything that survives a restart: the inbox, the history and the outbox, in one SQLite file. The only SQL."""

from bot.storage.cursors import Cursor, Cursors
from bot.storage.database import undisturbed
from bot.storage.examination import Examination, examine_database
from bot.storage.history import History, as_turn
from bot.storage.inbox import Inbox
from bot.storage.lock import is_held
from bot.storage.outbox import Outbox
from bot.storage.records import NewTurn, StoredReply, StoredRequest, StoredTurn
from bot.storage.state import Storage

__all__ = [
    "Cursor",
    "Cursors",
    "Examination",
    "History",
    "Inbox",
    "NewTurn",
    "Outbox",
    "Storage",
    "StoredReply",
    "StoredRequest",
    "StoredTurn",
    "as_turn",
    "examine_database",
    "is_held",
    "undisturbed",
]
