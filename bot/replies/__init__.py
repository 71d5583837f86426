"""Renders answers as messages and delivers each of them exactly once."""
