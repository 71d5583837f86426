"""Runs requests on the engine: the worker, model loading, queue status and engine recycling."""
