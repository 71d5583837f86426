"""One process a state directory: a lock that the operating system drops when its holder ends, however it ends.

In: a directory. Out: it exists (for its owner alone, if made here) and is ours until release(), or an error says
why not. The lock is on an open file, so it also keeps a second opening in the same process out.
"""

import sys
import time
from pathlib import Path

from bot.errors import ConfigError, StateLocked

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


def is_held(directory: Path) -> bool:
    """Whether a process holds the lock on `directory`. Makes nothing. Raises OSError if it cannot be looked at."""
    try:
        with (directory / "lock").open("rb") as file:
            return _held_by_another(file.fileno())
    except FileNotFoundError:
        return False


class StateLock:
    """The lock on a state directory, held from the making of this object to release()."""

    def __init__(self, directory: Path) -> None:
        """Make `directory` if need be and lock it. Raises StateLocked, or ConfigError if it cannot be used."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = (directory / "lock").open("ab")
            held = _held_by_another(self._file.fileno())
            if held:  # it may be is_held(), which looks for an instant
                time.sleep(LOOK_S)
                held = _held_by_another(self._file.fileno())
        except OSError as error:
            raise ConfigError(
                f"The state directory {directory} cannot be used ({error.strerror}): "
                "make it writable for this user, or set INHOUSE_STATE_DIR to another one."
            ) from error
        if held:
            self._file.close()
            raise StateLocked(
                f"The state directory {directory} is in use by another Inhouse: "
                "stop that one, or set INHOUSE_STATE_DIR to a directory of its own."
            )

    def release(self) -> None:
        """Let others in."""
        self._file.close()
