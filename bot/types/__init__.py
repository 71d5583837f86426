"""Data types, protocols and errors that all packages share; imports nothing else of this project."""
