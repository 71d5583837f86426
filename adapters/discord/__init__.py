"""Discord as a platform: read `adapter.py` first, then `inbound/events.py` and `outbound/posting.py`."""
