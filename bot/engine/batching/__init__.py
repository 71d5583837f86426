"""Code that CPU and GPU batches share: the Batch protocol, prefill budget, sampling, prompt lookup."""
