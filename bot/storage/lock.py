"""Locks a state directory for one process; the operating system releases the lock when the process ends.

The lock belongs to an open file, so it also excludes a second lock in the same process.
"""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bot.storage.files import check_file
from bot.types.errors import ConfigError, StateLocked

PROBE_S = 0.05
"""How long to wait for the lock, seconds: `is_held` of another process takes it for an instant."""
NAME = "lock"
MODE = 0o600


def is_held(directory: Path) -> bool:
    """Whether a process holds the lock on `directory`; creates no file.

    Raises OSError if the lock file cannot be read, ConfigError if it is not a regular file.
    """
    check_file(directory / NAME)
    if not (directory / NAME).exists():
        return False
    lock = _file_lock(directory)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


class StateLock:
    """The lock on a state directory, held from construction to release()."""

    def __init__(self, directory: Path) -> None:
        """Create `directory` (mode 0700) if needed and lock it.

        Raises StateLocked, or ConfigError if the directory cannot be used.
        """
        self._lock = _file_lock(directory)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_file(directory / NAME)
            self._lock.acquire(timeout=PROBE_S, poll_interval=PROBE_S / 2)
        except FileExistsError as error:
            raise ConfigError(
                f"The state directory {directory} is not a directory: "
                "move what is there away, or set INHOUSE_STATE_DIR to another one."
            ) from error
        except Timeout as error:
            raise StateLocked(
                f"The state directory {directory} is in use by another Inhouse: "
                "stop that one, or set INHOUSE_STATE_DIR to another directory."
            ) from error
        except OSError as error:
            raise ConfigError(
                f"The state directory {directory} cannot be used ({error.strerror}): "
                "make it writable for this user, or set INHOUSE_STATE_DIR to another one."
            ) from error

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()


def _file_lock(directory: Path) -> FileLock:
    return FileLock(
        directory / NAME,
        mode=MODE,
        thread_local=False,
        fallback_to_soft=False,  # a soft lock outlives a crash
        preserve_lock_file=True,  # another process may be about to lock the file
        on_acquired=_narrow,
    )


def _narrow(descriptor: int) -> None:
    """Restrict the permissions of a file from an earlier version or another umask, which filelock keeps."""
    if sys.platform != "win32" and stat.S_IMODE(os.fstat(descriptor).st_mode) & ~MODE:
        with suppress(PermissionError):  # another user owns it
            os.fchmod(descriptor, MODE)
