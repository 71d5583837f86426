"""Handles events: commands, buttons, edits, deletions and the bot's presence."""
