"""Implement `inhouse init`: from nothing to a running bot, step by step."""
