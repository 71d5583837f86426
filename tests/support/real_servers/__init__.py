"""Real model servers on loopback: llama.cpp's server, `transformers serve`, and vLLM's CPU build."""
