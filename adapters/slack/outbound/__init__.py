"""Posting, streaming, editing and finding messages, within Slack's rate limits."""
