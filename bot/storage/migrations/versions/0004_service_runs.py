"""In how many runs of the service an answer was being written or shown, to find one that ends the service."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """From 0003."""
    op.add_column("requests", sa.Column("service_runs", sa.Integer(), nullable=False, server_default="0"))
