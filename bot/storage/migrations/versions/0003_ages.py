"""Add indexes by age for retention, and one for the link from an answer to its request."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Upgrade from 0002."""
    op.create_index("ix_inbox_received_at", "inbox", ["received_at"])
    op.create_index("ix_requests_finished_at", "requests", ["finished_at"])
    op.create_index("ix_turns_sent_at", "turns", ["sent_at"])
    op.create_index("ix_turns_request_id", "turns", ["request_id"])
