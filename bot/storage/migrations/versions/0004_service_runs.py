"""Count the service runs in which an answer was written or shown, to detect answers that kill the service."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Upgrade from 0003."""
    op.add_column("requests", sa.Column("service_runs", sa.Integer(), nullable=False, server_default="0"))
