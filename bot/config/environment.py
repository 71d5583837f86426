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
ENV_SOURCE = ".env"
MOST_BYTES = 1_000_000
"""Maximum size of a file that is read."""


@dataclass(slots=True)
class EnvironmentScan:
    """The files that were read, where each variable is set (`sources`), and what could not be read (`mistakes`)."""

    env_file: Path | None = None
    credentials: Path | None = None
    sources: dict[str, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)


def scan_environment(ours: Callable[[str], bool]) -> EnvironmentScan:
    """Search the three sources; later ones take precedence. ours: whether a credential's name is a setting."""
    scan = EnvironmentScan()
    if os.path.lexists(ENV_FILE) and _is_env_file():
        _read_env_file(scan)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and Path(directory).is_dir():
        _read_credentials(scan, Path(directory), ours)
    scan.sources |= {name.upper(): "the environment" for name, value in os.environ.items() if value}
    return scan


def _is_env_file() -> bool:
    """Whether `.env` holds settings: it is no virtual environment, and no link to /dev/null (which disables it)."""
    try:
        return not (ENV_FILE / "pyvenv.cfg").is_file() and not ENV_FILE.samefile(os.devnull)
    except OSError:
        return True


def _read_env_file(scan: EnvironmentScan) -> None:
    try:
        text = read_text(ENV_FILE)
    except OSError as error:
        scan.mistakes.append(f".env cannot be read: {error.strerror}; make it readable, or remove it")
        return
    except UnicodeDecodeError:
        scan.mistakes.append(".env is not UTF-8 text; save it as UTF-8")
        return
    scan.env_file = ENV_FILE
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key and binding.value is None):
            original = binding.original.string
            line = binding.original.line + original[: len(original) - len(original.lstrip())].count("\n")
            scan.mistakes.append(f".env, line {line}: this is not NAME=value; correct it, or put a # before it")
        elif binding.key and binding.value:
            scan.sources[binding.key.upper()] = ENV_SOURCE


def _read_credentials(scan: EnvironmentScan, directory: Path, ours: Callable[[str], bool]) -> None:
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        scan.mistakes.append(
            f"The credentials directory {directory} cannot be read ({error.strerror}); check its owner, or see "
            "systemd/README.md for a container"
        )
        return
    scan.credentials = directory
    for path in paths:
        name = path.name.upper()
        if not ours(name):
            continue
        try:
            if read_text(path).strip():
                scan.sources[name] = "the credentials directory"
        except (OSError, UnicodeDecodeError):
            scan.credentials = None
            scan.mistakes.append(f"{name} (the credentials directory) cannot be read; make it a readable text file")


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
