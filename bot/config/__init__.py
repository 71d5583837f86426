"""Settings, their sources, network addresses and the version."""
