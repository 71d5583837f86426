"""Client side of the engine: asyncio code in the service's process. Never imports torch."""
