"""Inhouse: a chat bot that answers with a language model of your own."""
