"""Builds prompts, renders chat templates, tokenises without control tokens, and detokenises streams."""
