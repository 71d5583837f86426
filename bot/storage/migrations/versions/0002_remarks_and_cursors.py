"""Add remarks above answers, and backfill cursors."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

KEY = ("platform", "workspace", "channel", "thread")


def upgrade() -> None:
    """Upgrade from 0001."""
    op.add_column("requests", sa.Column("remark", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "cursors",
        *(sa.Column(name, sa.Text(), nullable=False) for name in KEY),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint(*KEY, name=op.f("pk_cursors")),
        sqlite_with_rowid=False,
    )
