"""A Slack of our own: see `server`."""
