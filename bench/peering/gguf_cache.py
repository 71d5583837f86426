"""Finds or makes a model directory's GGUF file in the user's cache, once."""

import sys
from pathlib import Path

from filelock import FileLock

from bench.peering.environments import root, run

CONVERTER = Path(__file__).with_name("gguf_file.py")


def gguf_of(folder: Path, dtype: str) -> Path:
    """The file with the directory's weights in `dtype` (float16 or bfloat16). Raises CannotInstall."""
    file = root() / f"{folder.name}.{dtype}.gguf"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                run([sys.executable, "-P", str(CONVERTER), str(folder), str(file), "--type", dtype])
    return file
