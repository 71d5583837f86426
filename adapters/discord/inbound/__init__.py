"""Discord's events, messages, files and history as the service's events."""
