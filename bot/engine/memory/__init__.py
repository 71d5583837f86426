"""Measures and estimates memory: available memory, a model's needs, the KV cache's size, leaks."""
