"""Add the time of the last edit of a turn's text, so that an older edit that arrives later changes nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Upgrade from 0010."""
    op.add_column("turns", sa.Column("edited_at", sa.Float(), nullable=False, server_default="0"))
