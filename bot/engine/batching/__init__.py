"""What batches on CPU and GPU share: the protocol, prefill budget, sampling, prompt lookup."""
