"""Check the settings for mistakes, and `.env` for tokens that other users of this machine can read."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from bot.config.settings import TOKENS
from bot.types.findings import Finding, State, from_error, ok, warning

ENV_FILE = Path(".env")


def configuration(mistakes: Sequence[str], near_misses: Sequence[str]) -> Iterator[Finding]:
    """Report the mistakes that `load_settings` found, and variables whose names are close to a setting's."""
    for mistake in mistakes:
        yield from_error("settings", State.WRONG, mistake)
    for near_miss in near_misses:
        yield from_error("settings", State.WARNING, near_miss)
    if not mistakes and not near_misses:
        where = f"{ENV_FILE.absolute()} and the environment" if ENV_FILE.is_file() else "the environment"
        yield ok("settings", f"no mistakes in {where}")


def env_file() -> Iterator[Finding]:
    """Check that only its owner can read a `.env` that contains tokens."""
    if os.name != "posix" or not ENV_FILE.is_file():
        return
    mode = stat.S_IMODE(ENV_FILE.stat().st_mode)
    try:
        text = ENV_FILE.read_text("utf-8")
    except (OSError, UnicodeDecodeError):  # reported by `configuration`
        return
    if mode & 0o077 and any(f"{name}=" in text.replace(" ", "") for name in TOKENS.values()):
        found = f"other users of this machine can read the tokens in {ENV_FILE.absolute()} (mode {mode:o})"
        yield warning(".env", found, f"`chmod 600 {ENV_FILE.absolute()}`")
