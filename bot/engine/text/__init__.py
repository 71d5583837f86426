"""Prompts, chat templates, tokenisation without control tokens, and streaming detokenisation."""
