"""A fake of OpenAI-compatible servers: vLLM, SGLang, llama.cpp, Ollama, transformers serve."""
