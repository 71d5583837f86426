"""Table definitions, equal to the schema of the newest migration, and helpers for conversation keys.

Times are Unix seconds. An absent key part is '', never NULL: SQLite's unique constraints treat NULLs as distinct.
"""

from dataclasses import asdict

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    text,
)

from bot.types.messages import ConversationKey

KEY = ("platform", "workspace", "channel", "thread")
"""Columns of a conversation key."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)


def _text(name: str, *, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary_key, nullable=False)


inbox = Table(
    "inbox",
    metadata,
    _text("platform", primary_key=True),
    _text("workspace", primary_key=True),
    _text("channel", primary_key=True),
    _text("identity", primary_key=True),
    _text("thread"),
    Column("received_at", Float, nullable=False),
    Index("ix_inbox_received_at", "received_at"),
    sqlite_with_rowid=False,
)

requests = Table(
    "requests",
    metadata,
    Column("id", Integer, primary_key=True),  # order of acceptance, independent of clock changes
    _text("request_id"),
    *(_text(name) for name in KEY),
    _text("message_id"),
    _text("author_id"),
    _text("author_name"),
    Column("author_manages_channel", Boolean, nullable=False),
    Column("author_manages_workspace", Boolean, nullable=False),
    _text("model"),
    _text("params"),
    _text("kind"),
    Column("attempts", Integer, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("wait_left_s", Float, nullable=False),
    _text("status"),
    Column("finish_reason", Text),
    Column("usage", Text),
    _text("error"),
    Column("finished_at", Float),
    Column("remark", Text, nullable=False, server_default=""),
    Column("service_runs", Integer, nullable=False, server_default="0"),  # runs killed while writing or showing it
    Column("host", Text, nullable=False, server_default=""),  # whose process shows the answer; '' in a file
    Column("taker", Text, nullable=False, server_default=""),  # whose process writes it, while it is running
    Column("stop", Text, nullable=False, server_default=""),  # what another host wants of it: 'stop', 'unasked'
    Column("edited", Boolean, nullable=False, server_default=false()),  # another host saw its question edited
    UniqueConstraint("request_id"),
    CheckConstraint("status IN ('waiting', 'running', 'finished', 'failed', 'cancelled')", "status"),
    Index("ix_requests_status", "status"),
    Index("ix_requests_message", *KEY, "message_id"),
    Index("ix_requests_accepted", *KEY, "accepted_at"),
    Index("ix_requests_finished_at", "finished_at"),
    Index(
        "ix_requests_running",  # one running request a conversation over all hosts
        *KEY,
        unique=True,
        postgresql_where=text("status = 'running'"),
    ).ddl_if(dialect="postgresql"),
)

turns = Table(
    "turns",
    metadata,
    Column("id", Integer, primary_key=True),
    *(_text(name) for name in KEY),
    _text("role"),
    _text("author_id"),
    _text("author"),
    _text("text"),
    _text("message_id"),  # of an assistant's turn: the question's id
    Column("sent_at", Float, nullable=False),
    Column("request_id", Text, ForeignKey("requests.request_id")),
    Column("hidden", Boolean, nullable=False, default=False),  # excluded from prompts by a reset
    Column("reply_to", Text, nullable=False, server_default=""),  # platform id of the message that it replies to
    Column("edited_at", Float, nullable=False, server_default="0"),  # by the platform's clock; 0 if never edited
    UniqueConstraint(*KEY, "message_id", "role"),
    CheckConstraint("role IN ('system', 'user', 'assistant')", "role"),
    Index("ix_turns_order", *KEY, "sent_at", "id"),
    Index("ix_turns_sent_at", "sent_at"),
    Index("ix_turns_request_id", "request_id"),
)

pictures = Table(
    "pictures",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("turn_id", Integer, ForeignKey("turns.id", ondelete="CASCADE"), nullable=False),
    _text("name"),
    _text("kind"),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),  # last: a row's other columns are read without it
    Index("ix_pictures_turn_id", "turn_id"),
    Index("ix_pictures_size", "size"),
)

settings = Table(
    "settings",
    metadata,
    *(_text(name, primary_key=True) for name in KEY),
    _text("name", primary_key=True),
    _text("value"),
    sqlite_with_rowid=False,
)

outbox = Table(
    "outbox",
    metadata,
    _text("reply_id", primary_key=True),
    Column("request_id", Text, ForeignKey("requests.request_id"), nullable=False),
    *(_text(name) for name in KEY),
    Column("part", Integer, nullable=False),
    _text("question_id"),
    _text("asker_id"),
    _text("asker_name"),
    _text("committed"),
    Column("final", Boolean, nullable=False),
    _text("buttons"),
    Column("attachment_name", Text),
    Column("attachment_text", Text),
    Column("platform_id", Text),
    Column("finish_reason", Text),
    Column("usage", Text),
    _text("state"),
    _text("dropped"),  # reason why it is never shown
    UniqueConstraint("request_id", "part"),
    CheckConstraint("state IN ('posting', 'posted', 'ready', 'final', 'dropped')", "state"),
    Index("ix_outbox_state", "state"),
    Index("ix_outbox_platform_id", "platform", "workspace", "channel", "platform_id"),
)

ratings = Table(
    "ratings",
    metadata,
    Column("reply_id", Text, ForeignKey("outbox.reply_id"), primary_key=True, nullable=False),
    _text("actor_id", primary_key=True),
    Column("good", Boolean, nullable=False),
    Column("rated_at", Float, nullable=False),
    sqlite_with_rowid=False,
)

thoughts = Table(
    "thoughts",
    metadata,
    Column("request_id", Text, ForeignKey("requests.request_id"), primary_key=True, nullable=False),
    _text("text"),
    Column("made_at", Float, nullable=False),
    Index("ix_thoughts_made_at", "made_at"),
    sqlite_with_rowid=False,
)

cursors = Table(
    "cursors",
    metadata,
    *(_text(name, primary_key=True) for name in KEY),
    _text("message_id"),
    Column("sent_at", Float, nullable=False),
    sqlite_with_rowid=False,
)

hosts = Table(
    "hosts",  # processes that use the database together; used on a server
    metadata,
    _text("name", primary_key=True),
    Column("epoch", Integer, nullable=False),  # one more with each start, and when another one declared it dead
    Column("expires_at", Float, nullable=False),  # by the server's clock; once it has ended, minus the time of that
    _text("roles"),
    Column("slots", Integer, nullable=False),  # answers that it writes at once
    _text("model"),  # that is loaded
    Column("answer_s", Float),  # of an answer of that model
    Column("place", Text, nullable=False, server_default=""),  # of its state directory, '' if not known
    Column("models", Text, nullable=False, server_default=""),  # that it can load, one a line
    Column("settings", Text, nullable=False, server_default=""),  # a JSON object of hashes by variable
    sqlite_with_rowid=False,
)

leases = Table(
    "leases",  # claims of a host on what only one may do; used on a server
    metadata,
    _text("name", primary_key=True),
    _text("owner"),
    Column("epoch", Integer, nullable=False),  # one more with each claim
    Column("expires_at", Float, nullable=False),  # by the server's clock
    sqlite_with_rowid=False,
)


def of_key(table: Table, key: ConversationKey) -> ColumnElement[bool]:
    """Select the rows of exactly this conversation."""
    return and_(*(table.c[name] == value for name, value in asdict(key).items()))


def of_message(table: Table, key: ConversationKey, message_id: str, everywhere: bool) -> ColumnElement[bool]:
    """Select the rows of a message, in this conversation or everywhere in its channel."""
    channel = and_(*(table.c[name] == getattr(key, name) for name in KEY if name != "thread"))
    return and_(channel if everywhere else of_key(table, key), table.c.message_id == message_id)


def key_of(row: RowMapping) -> ConversationKey:
    """Conversation key of a row."""
    return ConversationKey(*(row[name] for name in KEY))
