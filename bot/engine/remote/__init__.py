"""An engine on servers that speak OpenAI's streaming API: vLLM, SGLang, llama.cpp, Ollama, transformers serve."""
