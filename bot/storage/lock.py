"""Locks a state directory for one process; the operating system releases the lock when the process ends.

The lock belongs to an open file, so it also excludes a second lock in the same process.
"""

import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

from bot.storage.files import check_file
from bot.types.errors import ConfigError, StateLocked

if sys.platform == "win32":
    import msvcrt

    def _held_by_another(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return True
        return False
else:
    import fcntl

    def _held_by_another(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


LOOK_S = 0.05
NAME = "lock"
MODE = 0o600
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)
"""Keeps os.open from blocking on a FIFO that replaced the file after the check."""


def is_held(directory: Path) -> bool:
    """Whether a process holds the lock on `directory`; creates no file.

    Raises OSError if the lock file cannot be read, ConfigError if it is not a regular file.
    """
    check_file(directory / NAME)
    try:
        descriptor = os.open(directory / NAME, os.O_RDONLY | _AT_ONCE)
    except FileNotFoundError:
        return False
    try:
        return _held_by_another(descriptor)
    finally:
        os.close(descriptor)


class StateLock:
    """The lock on a state directory, held from construction to release()."""

    def __init__(self, directory: Path) -> None:
        """Create `directory` (mode 0700) if needed and lock it.

        Raises StateLocked, or ConfigError if the directory cannot be used.
        """
        self._descriptor: int | None = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_file(directory / NAME)
            self._descriptor = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | _AT_ONCE, MODE)
            _narrow(self._descriptor)
            held = _held_by_another(self._descriptor)
            if held:  # perhaps by is_held() of another process, which locks for an instant
                time.sleep(LOOK_S)
                held = _held_by_another(self._descriptor)
        except FileExistsError as error:
            raise ConfigError(
                f"The state directory {directory} is not a directory: "
                "move what is there away, or set INHOUSE_STATE_DIR to another one."
            ) from error
        except OSError as error:
            self.release()
            raise ConfigError(
                f"The state directory {directory} cannot be used ({error.strerror}): "
                "make it writable for this user, or set INHOUSE_STATE_DIR to another one."
            ) from error
        if held:
            self.release()
            raise StateLocked(
                f"The state directory {directory} is in use by another Inhouse: "
                "stop that one, or set INHOUSE_STATE_DIR to a directory of its own."
            )

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _narrow(descriptor: int) -> None:
    """Restrict the permissions of a file from an earlier version or another umask."""
    if sys.platform != "win32" and stat.S_IMODE(os.fstat(descriptor).st_mode) & ~MODE:
        with suppress(PermissionError):  # another user owns it
            os.fchmod(descriptor, MODE)
