"""Find which variables are set in `.env` of the working directory, systemd's credentials and the environment.

Unreadable sources are returned as sentences, not raised. `bot.config.settings` interprets the values.
"""

import errno
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import parse_stream

ENV_FILE = Path(".env")
MOST_BYTES = 1_000_000
"""Maximum size of a file that is read."""


@dataclass(slots=True)
class Found:
    """The readable sources, the source of each variable (`places`), and what could not be read (`mistakes`)."""

    env_file: Path | None = None
    credentials: Path | None = None
    places: dict[str, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)


def look(ours: Callable[[str], bool]) -> Found:
    """Search the three sources; later ones take precedence. ours: whether a credential's name is a setting."""
    found = Found()
    if os.path.lexists(ENV_FILE) and not _is_for_others():
        _read_env_file(found)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and Path(directory).is_dir():
        _read_credentials(found, Path(directory), ours)
    found.places |= {name.upper(): "the environment" for name, value in os.environ.items() if value}
    return found


def _is_for_others() -> bool:
    """Whether `.env` is a virtual environment, or a link to /dev/null (which disables it)."""
    try:
        return (ENV_FILE / "pyvenv.cfg").is_file() or ENV_FILE.samefile(os.devnull)
    except OSError:
        return False


def _read_env_file(found: Found) -> None:
    try:
        text = read_text(ENV_FILE)
    except OSError as error:
        found.mistakes.append(f".env cannot be read: {error.strerror}; make it readable, or remove it")
        return
    except UnicodeDecodeError:
        found.mistakes.append(".env is not UTF-8 text; save it as UTF-8")
        return
    found.env_file = ENV_FILE
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key and binding.value is None):
            original = binding.original.string
            line = binding.original.line + original[: len(original) - len(original.lstrip())].count("\n")
            found.mistakes.append(f".env, line {line}: this is not NAME=value; correct it, or put a # before it")
        elif binding.key and binding.value:
            found.places[binding.key.upper()] = ".env"


def _read_credentials(found: Found, directory: Path, ours: Callable[[str], bool]) -> None:
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        found.mistakes.append(f"The credentials directory {directory} cannot be read ({error.strerror})")
        return
    found.credentials = directory
    for path in paths:
        name = path.name.upper()
        if not ours(name):
            continue
        try:
            if read_text(path).strip():
                found.places[name] = "the credentials directory"
        except (OSError, UnicodeDecodeError):
            found.credentials = None
            found.mistakes.append(f"{name} (the credentials directory) cannot be read; make it a readable text file")


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a regular UTF-8 file of at most `most` bytes. Never blocks, even if the path is a FIFO.

    Raises OSError and UnicodeDecodeError.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return content.decode("utf-8")
