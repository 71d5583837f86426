"""Several hosts on one database: who holds which request, and what becomes of those of a host that died."""
