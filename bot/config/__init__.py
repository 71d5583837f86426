"""Settings, their sources, and network addresses."""
