"""The adapter protocol, and what adapters and the service share: access, text files, splitting."""
