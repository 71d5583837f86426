"""Builds files in the format of /proc and of control groups."""

from pathlib import Path


def lay(root: Path, files: dict[str, str]) -> Path:
    """Writes files below `root`, by their names; returns it."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root
