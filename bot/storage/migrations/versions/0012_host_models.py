"""Add the models that a host has, and the settings that should be the same on all hosts."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Upgrade from 0011."""
    for name in ("models", "settings"):
        op.add_column("hosts", sa.Column(name, sa.Text(), nullable=False, server_default=""))
