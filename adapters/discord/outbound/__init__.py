"""Posting, editing and finding messages, within Discord's rate limits."""
