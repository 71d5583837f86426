"""Seeing it: /healthz, /readyz, /metrics and a status page, over HTTP. Nobody's words are shown, and no secret."""
