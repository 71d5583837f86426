"""The engine's process: loads models, generates, reports progress and memory."""
