"""Server side of the engine: the child process that loads models, generates, and reports progress and memory."""
