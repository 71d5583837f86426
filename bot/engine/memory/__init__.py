"""Memory: what is available, what a model will take, the KV cache's size, and leaks."""
