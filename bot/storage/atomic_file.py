"""Writes a file atomically, with mode 0600, and syncs it to disk.

Until the file is complete, its path keeps the previous state, even if the process or the machine fails.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bot.types.errors import ConfigError, StorageError


@contextmanager
def new_file(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty file beside `target`; renames it to `target` if the block ends without an error.

    force: allow `target` to exist. Raises ConfigError if `target` cannot be used, StorageError on disk errors.
    """
    if target.is_dir() or not target.parent.is_dir():
        what = "is a directory" if target.is_dir() else "is in a directory that does not exist"
        raise ConfigError(f"{target} {what}: name a file in a directory that exists.")
    if target.exists() and not force:
        raise ConfigError(f"{target} exists already: name another file, or add --force to overwrite it.")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # with mode 0600
        os.close(descriptor)
    except OSError as error:
        raise ConfigError(
            f"{target} cannot be written ({error.strerror}): name a file in another directory."
        ) from error
    path = Path(name)
    try:
        yield path
        _sync(path)
        path.replace(target)
        if sys.platform != "win32":
            _sync(target.parent)
    except OSError as error:
        raise StorageError(
            f"{target} could not be written ({error.strerror}): check the disk and its free space."
        ) from error
    finally:
        for beside in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                path.with_name(path.name + beside).unlink()


def _sync(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
