"""Slack as a platform: read `adapter.py` first, then `events.py` (what comes in) and `posting.py` (what goes out)."""
