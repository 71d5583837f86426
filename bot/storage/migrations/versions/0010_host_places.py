"""Add the place from which a host uses the database, which tells its state directory from copies."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Upgrade from 0009."""
    op.add_column("hosts", sa.Column("place", sa.Text(), nullable=False, server_default=""))
