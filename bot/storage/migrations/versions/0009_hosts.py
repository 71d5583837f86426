"""Add the hosts that use one database together, and the host of each request."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

CLAIM = "service"
"""The lease of a version that had one host; without it, such a process cannot write any more."""


def upgrade() -> None:
    """Upgrade from 0008."""
    op.create_table(
        "hosts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("answer_s", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_hosts")),
        sqlite_with_rowid=False,
    )
    for name in ("host", "taker", "stop"):
        op.add_column("requests", sa.Column(name, sa.Text(), nullable=False, server_default=""))
    op.add_column("requests", sa.Column("edited", sa.Boolean(), nullable=False, server_default=sa.false()))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("UPDATE requests SET status = 'waiting', attempts = attempts + 1 WHERE status = 'running'")
        op.create_index(
            "ix_requests_running",
            "requests",
            ["platform", "workspace", "channel", "thread"],
            unique=True,
            postgresql_where=sa.text("status = 'running'"),
        )
    leases = sa.table("leases", sa.column("name", sa.Text()))
    op.execute(sa.delete(leases).where(leases.c.name == CLAIM))
