"""The terminal as a platform, and the example for new adapters: read `adapter.py` first."""
