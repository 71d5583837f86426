"""The gateway connection: the client, its supervision and its reconnect budget."""
