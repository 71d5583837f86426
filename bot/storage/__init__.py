"""Persists the state: inbox, history, outbox, cursors. All SQL of the project is in this package.

It is in one SQLite file, or in a database on a PostgreSQL server.
"""

from bot.storage.cursors import Cursor, Cursors
from bot.storage.database import shield_from_cancellation
from bot.storage.history import History, as_turn
from bot.storage.hosts import Host, Unfinished
from bot.storage.identity import OWNER, identity_in
from bot.storage.inbox import Inbox
from bot.storage.leases import Leases
from bot.storage.lock import is_held
from bot.storage.open_storage import Storage
from bot.storage.outbox import Outbox
from bot.storage.readonly import Inspection, inspect_database
from bot.storage.row_types import NewTurn, StoredReply, StoredRequest, StoredTurn
from bot.storage.server_inspection import LiveHost, ServerInspection, inspect_server

__all__ = [
    "OWNER",
    "Cursor",
    "Cursors",
    "History",
    "Host",
    "Inbox",
    "Inspection",
    "Leases",
    "LiveHost",
    "NewTurn",
    "Outbox",
    "ServerInspection",
    "Storage",
    "StoredReply",
    "StoredRequest",
    "StoredTurn",
    "Unfinished",
    "as_turn",
    "identity_in",
    "inspect_database",
    "inspect_server",
    "is_held",
    "shield_from_cancellation",
]
