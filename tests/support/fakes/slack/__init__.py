"""A fake Slack; see `server`."""
