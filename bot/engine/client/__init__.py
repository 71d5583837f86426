"""The service's side of the engine: asyncio, never torch."""
