"""Logs, journal priorities, metrics, systemd's notify protocol and the event loop watchdog."""
