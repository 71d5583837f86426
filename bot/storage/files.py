"""Checks that the paths of a state directory are regular files before they are opened.

Opening a FIFO blocks, reading a device may never end, and SQLite creates the target of a dangling link.
"""

import stat
from collections.abc import Callable
from pathlib import Path

from bot.types.errors import ConfigError

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def check_file(path: Path) -> None:
    """Raise ConfigError, with instructions, unless `path` is a regular file, a link to one, or missing."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ConfigError(
                f"{path} is a link to a file that does not exist: remove it, or restore its target."
            ) from None
        return
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be accessed ({error.strerror}): run this as the user that runs Inhouse, or give "
            "this user access to it."
        ) from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in KINDS if test(mode)), "something else")
        raise ConfigError(f"{path} is {kind}, and Inhouse keeps a file of that name there: move it away.")


def check_database_files(path: Path) -> None:
    """Same as `check_file`, for a database and the files that SQLite keeps beside it."""
    for ending in ("", "-wal", "-shm", "-journal"):
        check_file(path.with_name(path.name + ending))
