"""Logs, the journal's priorities, metrics and systemd's notify protocol."""
