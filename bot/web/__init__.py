"""HTTP server for /healthz, /readyz, /metrics and the status page. Shows no message text and no secrets."""
