"""Runs requests on the engine: the worker, model loading and queue status."""
