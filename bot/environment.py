"""Where settings may stand: `.env` in the working directory, systemd's credentials, the environment.

In: these three places. Out: which variables are set where, and a sentence for each thing that cannot be read. It knows
no setting; what the values mean is for `config`.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import parse_stream

ENV_FILE = Path(".env")


@dataclass(slots=True)
class Found:
    """Where settings may be read from, which variables are set there, and what could not be read."""

    env_file: Path | None = None
    credentials: Path | None = None
    places: dict[str, str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)


def look(ours: Callable[[str], bool]) -> Found:
    """Look into the three places; the later ones win. `ours` tells which credentials are settings."""
    found = Found()
    if ENV_FILE.is_file():
        _read_env_file(found)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and Path(directory).is_dir():
        _read_credentials(found, Path(directory), ours)
    found.places |= {name.upper(): "the environment" for name, value in os.environ.items() if value}
    return found


def _read_env_file(found: Found) -> None:
    try:
        text = ENV_FILE.read_text("utf-8")
    except OSError as error:
        found.mistakes.append(f".env cannot be read: {error.strerror}; make it readable, or take it away")
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
        found.mistakes.append(f"The credentials directory {directory} cannot be looked into ({error.strerror})")
        return
    found.credentials = directory
    for path in paths:
        name = path.name.upper()
        if not ours(name):
            continue
        try:
            if path.read_text("utf-8").strip():
                found.places[name] = "the credentials directory"
        except (OSError, UnicodeDecodeError):
            found.credentials = None
            found.mistakes.append(f"{name} (the credentials directory) cannot be read; make it a readable text file")
