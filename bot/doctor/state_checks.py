"""Check the state directory: access, permissions, lock, disk space and the database's integrity.

Writes nothing and is safe beside a running service.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from bot.config.settings import Settings
from bot.doctor.host_checks import compared
from bot.doctor.model_checks import existing
from bot.models.model_table import human
from bot.storage import OWNER, Inspection, ServerInspection, identity_in, inspect_database, inspect_server, is_held
from bot.types.errors import ConfigError, InhouseError
from bot.types.findings import Finding, State, from_error, ok, reason, warning, wrong

FULL_BYTES = 20_000_000
TIGHT_BYTES = 1_000_000_000
SLOW_MS = 20.0
CLOCK_S = 30.0
"""How far the clock of a database's server may be away."""
ANOTHER = "or set INHOUSE_STATE_DIR to another directory"


def running(settings: Settings) -> bool:
    """Whether an Inhouse holds the lock of this state directory; False if that cannot be determined."""
    try:
        return is_held(settings.state_dir)
    except (OSError, ConfigError):
        return False


def running_hosts(settings: Settings) -> int:
    """How many hosts of Inhouse run: those of the database, or this one; 0 if that cannot be determined."""
    if settings.database_url is None:
        return int(running(settings))
    try:
        return len(inspect_server(settings.database_url).hosts)
    except InhouseError:  # reported by `database`
        return 0


def directory(settings: Settings) -> Iterator[Finding]:
    """Check that the state directory exists or can be created, is writable and private; report whether it is in use."""
    place = settings.state_dir
    try:
        above = existing(place)
    except OSError as error:
        yield wrong(
            "state",
            f"{place} cannot be accessed ({reason(error)})",
            f"Run this as the user that runs Inhouse, {ANOTHER}.",
        )
        return
    if above != place and place.is_symlink():
        yield wrong("state", f"{place} is a link to a directory that does not exist", f"Remove it, {ANOTHER}.")
    elif not above.is_dir():
        yield wrong("state", f"{above} is not a directory", f"Move it away, {ANOTHER}.")
    elif not os.access(above, os.W_OK | os.X_OK):
        what = f"write {place}" if above == place else f"create {place} in {above}"
        yield wrong("state", f"this user cannot {what}", f"Make it writable for the user that runs Inhouse, {ANOTHER}.")
    elif above != place:
        yield ok("state", f"{place} does not exist yet; the first start creates it")
    elif os.name == "posix" and (mode := stat.S_IMODE(place.stat().st_mode)) & 0o077:
        found = f"other users of this machine can read {place} (mode {mode:o}), which holds conversations"
        yield warning("state", found, f"`chmod 700 {place}`")
    else:
        yield ok("state", f"{place}, private to its owner")
    if above == place and place.is_dir():
        yield _lock(settings)


def _lock(settings: Settings) -> Finding:
    try:
        if is_held(settings.state_dir):
            return ok("instance", "Inhouse is running and uses this directory")
    except ConfigError as error:
        return from_error("instance", State.WRONG, str(error))
    except OSError as error:
        lock = settings.state_dir / "lock"
        return warning(
            "instance", f"{lock} cannot be read ({reason(error)})", "Run this as the user that runs Inhouse."
        )
    return ok("instance", "not running")


def disk(settings: Settings) -> Iterator[Finding]:
    """Check the free disk space of the state directory."""
    try:
        place = existing(settings.state_dir)
    except OSError:  # reported by `directory`
        return
    free = shutil.disk_usage(place).free
    found = f"{human(free, 'B')} free in {place}"
    if free < FULL_BYTES:
        yield wrong("disk of state", f"{found}: no message can be stored, so none is answered", "Free some space.")
    elif free < TIGHT_BYTES:
        yield warning("disk of state", found, "Free some space: messages that cannot be stored are not answered.")
    else:
        yield ok("disk of state", found)


def database(settings: Settings) -> Iterator[Finding]:
    """Check the database's integrity and schema version; on a server, also latency, clock and rights."""
    if settings.database_url is not None:
        yield from _server(settings, settings.database_url)
        return
    try:
        inspection = inspect_database(settings.state_dir)
    except InhouseError as error:
        yield from_error("database", State.WRONG, str(error))
        return
    if inspection is None:
        yield ok("database", "none yet; the first start creates it")
    else:
        yield _database_finding(inspection, settings.state_dir / "inhouse.db")


def _server(settings: Settings, url: SecretStr) -> Iterator[Finding]:
    try:
        found = inspect_server(url)
    except InhouseError as error:
        yield from_error("database", State.WRONG, str(error))
        return
    if found.mismatch:
        yield from_error("database", State.WRONG, found.mismatch)
        return
    size = human(found.bytes, "B")
    about = f"{found.name}: PostgreSQL {found.version}, {size}, answers in {found.latency_ms:.1f} ms"
    if not found.can_create and not found.newest:
        fix = "Make the user the owner of the database: `ALTER DATABASE name OWNER TO user`."
        yield wrong("database", f"{about}; its user cannot create tables", fix)
    elif found.latency_ms > SLOW_MS:
        fix = "Run the bot near its database: each message waits for a dozen round trips."
        yield warning("database", about, fix)
    elif abs(found.clock_s) > CLOCK_S:
        fix = "Have both set their clocks by NTP."
        yield warning("database", f"{about}; its clock is {found.clock_s:+.0f} s away from this machine's", fix)
    elif not found.schema:
        yield ok("database", f"{about}; empty, the first start creates the tables")
    elif not found.newest:
        yield ok("database", f"{about}; its schema is older than this version; the next start upgrades it")
    else:
        names = " and by ".join(host.name for host in found.hosts)
        yield ok("database", f"{about}, {f'in use by {names}' if names else 'not in use'}")
    yield from compared(found.hosts)
    if copied := _copied_from(settings, found):
        what = f"{settings.state_dir} is a copy of the state directory of {copied}, which is running"
        fix = f"Remove {settings.state_dir / OWNER}, so that this host gets a name of its own."
        yield wrong("instance", what, fix)


def _copied_from(settings: Settings, found: ServerInspection) -> str:
    """The name of the running host of whose state directory this one is a copy, '' for none."""
    try:
        identity = identity_in(settings.state_dir)
    except (OSError, ConfigError):  # reported by `directory`, or at the start
        return ""
    if identity is None or running(settings):
        return ""
    places = {host.name: host.place for host in found.hosts}
    return identity.name if places.get(identity.name, "") not in ("", identity.place) else ""


def _database_finding(inspection: Inspection, path: Path) -> Finding:
    if inspection.verdict != "ok":
        fix = (
            f"Stop Inhouse, move {path} away with the files beside it that start with its name, and restore a backup "
            "in its place or start with an empty history."
        )
        return wrong("database", f"{path} is damaged: {' '.join(inspection.verdict.split())}", fix)
    if inspection.mismatch:
        return from_error("database", State.WRONG, inspection.mismatch)
    unused = f" ({human(inspection.free, 'B')} unused)" if inspection.free else ""
    sound = f"no damage, {human(inspection.bytes, 'B')}{unused}"
    if inspection.newest:
        return ok("database", sound)
    return ok("database", f"{sound}; its schema is older than this version; the next start upgrades it")
