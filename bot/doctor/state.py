"""The state directory: whether it can be used, is private, is in use, has room, and whether the database is sound.

In: settings. Out: findings. Nothing is written; a running Inhouse is not disturbed.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from bot.config import Settings
from bot.doctor.models import existing
from bot.errors import StorageError
from bot.findings import Finding, State, ok, reason, told, warning, wrong
from bot.models.report import human
from bot.storage import Examination, examine_database, is_held

FULL_BYTES = 20_000_000
TIGHT_BYTES = 1_000_000_000
ANOTHER = "or set INHOUSE_STATE_DIR to another directory"


def running(settings: Settings) -> bool:
    """Whether an Inhouse is running on this state."""
    try:
        return is_held(settings.state_dir)
    except OSError:
        return False


def directory(settings: Settings) -> Iterator[Finding]:
    """Whether it is there or can be made, can be written, and is for its owner alone."""
    place = settings.state_dir
    above = existing(place)
    if not above.is_dir():
        yield wrong("state", f"{above} is a file, not a directory", f"Move it away, {ANOTHER}.")
    elif not os.access(above, os.W_OK | os.X_OK):
        which = f"{place} cannot be written" if above == place else f"{place} cannot be made in {above}"
        yield wrong("state", f"{which} by this user", f"Make it writable for the user that runs Inhouse, {ANOTHER}.")
    elif above != place:
        yield ok("state", f"{place} is not there yet, and will be made")
    elif os.name == "posix" and (mode := stat.S_IMODE(place.stat().st_mode)) & 0o077:
        found = f"others of this machine may look into {place} (mode {mode:o}), and it holds what people wrote"
        yield warning("state", found, f"`chmod 700 {place}`")
    else:
        yield ok("state", f"{place}, for its owner alone")
    if above == place and place.is_dir():
        yield _lock(settings)


def _lock(settings: Settings) -> Finding:
    try:
        if is_held(settings.state_dir):
            return ok("instance", "an Inhouse is running on this state")
    except OSError as error:
        lock = settings.state_dir / "lock"
        return warning("instance", f"{lock} cannot be read ({reason(error)})", "Look as the user that runs Inhouse.")
    return ok("instance", "none is running on this state now")


def disk(settings: Settings) -> Iterator[Finding]:
    """Room."""
    place = existing(settings.state_dir)
    free = shutil.disk_usage(place).free
    found = f"{human(free, 'B')} free in {place}"
    if free < FULL_BYTES:
        yield wrong("disk of state", f"{found}: nothing more can be stored, so nothing is answered", "Make room.")
    elif free < TIGHT_BYTES:
        yield warning("disk of state", found, "Make room before it is full: what cannot be stored is not answered.")
    else:
        yield ok("disk of state", found)


def database(settings: Settings) -> Iterator[Finding]:
    """Whether what is stored is sound, and of a version that can be gone on with."""
    try:
        seen = examine_database(settings.state_dir)
    except StorageError as error:
        yield told("database", State.WRONG, str(error))
        return
    if seen is None:
        yield ok("database", "none yet; the first start makes it")
    else:
        yield _judged(seen, settings.state_dir / "inhouse.db")


def _judged(seen: Examination, path: Path) -> Finding:
    if seen.verdict != "ok":
        fix = (
            f"Stop Inhouse and move {path} away with the files beside it that start with its name; then restore a "
            "backup in its place, or start again with an empty history."
        )
        return wrong("database", f"{path} is damaged: {' '.join(seen.verdict.split())}", fix)
    if not seen.known:
        fix = "Install that version or a newer one, or restore an older backup."
        return wrong("database", f"a newer Inhouse made it (its tables are at {seen.revision})", fix)
    unused = f", {human(seen.free, 'B')} of them unused" if seen.free else ""
    sound = f"sound, {human(seen.bytes, 'B')}{unused}"
    if seen.newest:
        return ok("database", sound)
    return ok("database", f"{sound}; its tables are older than this version, and the next start brings them up to date")
