"""Runs batches on a CPU: KV cache, attention and compute threads."""
