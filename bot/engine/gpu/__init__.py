"""Runs batches on a GPU: transformers' paged cache with our scheduler and offloading to RAM."""
