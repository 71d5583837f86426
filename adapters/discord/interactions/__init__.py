"""Slash commands, context menus and buttons."""
