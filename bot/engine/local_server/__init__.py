"""An engine on servers that Inhouse runs on this machine as child processes: vLLM and llama.cpp."""
