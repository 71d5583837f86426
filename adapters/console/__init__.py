"""The terminal as a platform, and the worked example of an adapter: read `adapter.py` first."""
