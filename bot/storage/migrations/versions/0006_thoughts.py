"""Add the thoughts of answers, which are kept for a day."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Upgrade from 0005."""
    op.create_table(
        "thoughts",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("made_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_thoughts")),
        sa.ForeignKeyConstraint(["request_id"], ["requests.request_id"], name=op.f("fk_thoughts_request_id")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_thoughts_made_at", "thoughts", ["made_at"])
