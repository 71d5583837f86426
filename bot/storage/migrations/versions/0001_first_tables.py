"""Create the first tables: inbox, requests, turns, settings, outbox, ratings."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _key() -> list[sa.Column[str]]:
    return [_text(name) for name in ("platform", "workspace", "channel", "thread")]


def upgrade() -> None:
    """Upgrade from an empty file."""
    _events()
    _conversations()
    _replies()


def _events() -> None:
    op.create_table(
        "inbox",
        _text("platform"),
        _text("workspace"),
        _text("channel"),
        _text("identity"),
        _text("thread"),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "workspace", "channel", "identity", name=op.f("pk_inbox")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.Integer(), nullable=False),
        _text("request_id"),
        *_key(),
        _text("message_id"),
        _text("author_id"),
        _text("author_name"),
        sa.Column("author_manages_channel", sa.Boolean(), nullable=False),
        sa.Column("author_manages_workspace", sa.Boolean(), nullable=False),
        _text("model"),
        _text("params"),
        _text("kind"),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("accepted_at", sa.Float(), nullable=False),
        sa.Column("wait_left_s", sa.Float(), nullable=False),
        _text("status"),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("usage", sa.Text(), nullable=True),
        _text("error"),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.CheckConstraint(
            "status IN ('waiting', 'running', 'finished', 'failed', 'cancelled')", name=op.f("ck_requests_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
        sa.UniqueConstraint("request_id", name=op.f("uq_requests_request_id")),
    )
    op.create_index("ix_requests_accepted", "requests", ["platform", "workspace", "channel", "thread", "accepted_at"])
    op.create_index("ix_requests_message", "requests", ["platform", "workspace", "channel", "thread", "message_id"])
    op.create_index("ix_requests_status", "requests", ["status"])


def _conversations() -> None:
    op.create_table(
        "settings",
        *_key(),
        _text("name"),
        _text("value"),
        sa.PrimaryKeyConstraint("platform", "workspace", "channel", "thread", "name", name=op.f("pk_settings")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "turns",
        sa.Column("id", sa.Integer(), nullable=False),
        *_key(),
        _text("role"),
        _text("author_id"),
        _text("author"),
        _text("text"),
        _text("message_id"),
        sa.Column("sent_at", sa.Float(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.CheckConstraint("role IN ('system', 'user', 'assistant')", name=op.f("ck_turns_role")),
        sa.ForeignKeyConstraint(["request_id"], ["requests.request_id"], name=op.f("fk_turns_request_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_turns")),
        sa.UniqueConstraint(
            "platform",
            "workspace",
            "channel",
            "thread",
            "message_id",
            "role",
            name=op.f("uq_turns_platform_workspace_channel_thread_message_id_role"),
        ),
    )
    op.create_index("ix_turns_order", "turns", ["platform", "workspace", "channel", "thread", "sent_at", "id"])


def _replies() -> None:
    op.create_table(
        "outbox",
        _text("reply_id"),
        _text("request_id"),
        *_key(),
        sa.Column("part", sa.Integer(), nullable=False),
        _text("question_id"),
        _text("asker_id"),
        _text("asker_name"),
        _text("committed"),
        sa.Column("final", sa.Boolean(), nullable=False),
        _text("buttons"),
        sa.Column("attachment_name", sa.Text(), nullable=True),
        sa.Column("attachment_text", sa.Text(), nullable=True),
        sa.Column("platform_id", sa.Text(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("usage", sa.Text(), nullable=True),
        _text("state"),
        _text("dropped"),
        sa.CheckConstraint("state IN ('posting', 'posted', 'ready', 'final', 'dropped')", name=op.f("ck_outbox_state")),
        sa.ForeignKeyConstraint(["request_id"], ["requests.request_id"], name=op.f("fk_outbox_request_id")),
        sa.PrimaryKeyConstraint("reply_id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("request_id", "part", name=op.f("uq_outbox_request_id_part")),
    )
    op.create_index("ix_outbox_platform_id", "outbox", ["platform", "workspace", "channel", "platform_id"])
    op.create_index("ix_outbox_state", "outbox", ["state"])
    op.create_table(
        "ratings",
        _text("reply_id"),
        _text("actor_id"),
        sa.Column("good", sa.Boolean(), nullable=False),
        sa.Column("rated_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["reply_id"], ["outbox.reply_id"], name=op.f("fk_ratings_reply_id")),
        sa.PrimaryKeyConstraint("reply_id", "actor_id", name=op.f("pk_ratings")),
        sqlite_with_rowid=False,
    )
