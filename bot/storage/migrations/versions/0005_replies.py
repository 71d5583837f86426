"""Add the message that a turn replies to, so that prompts can quote it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Upgrade from 0004."""
    op.add_column("turns", sa.Column("reply_to", sa.Text(), nullable=False, server_default=""))
