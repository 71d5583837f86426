"""Turns messages into stored turns and queued requests; backfills what was missed."""
