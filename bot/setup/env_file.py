"""Set variables in a `.env` file and keep everything else in it: comments, unknown lines, order, line ends.

Values are quoted so that python-dotenv reads them back unchanged. The file is replaced atomically, with mode 0600, and
an existing one is copied to `.env.bak-DATE` first.
"""

import io
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from bot.config.environment import read_text
from bot.config.settings import TOKENS
from bot.storage.atomic_file import new_file
from bot.types.errors import ConfigError

HEADER = "# Settings of Inhouse, written by `inhouse init`. .env.example lists all settings.\n"
HIDDEN = "(hidden)"

_PLAIN = re.compile(r"[\w./:@%+,=~-]*", re.ASCII)
_ASSIGNMENT = re.compile(
    r"""(?P<before>\s*(?:export[^\S\r\n]+)?)
        (?:'[^']+'|[^=\#\s]+)[^\S\r\n]*=[^\S\r\n]*
        (?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?:(?!\s\#)[^\r\n])*)
        (?P<after>[^\r\n]*(?:\r\n|\n|\r)?)""",
    re.VERBOSE | re.DOTALL,
)
"""One assignment as python-dotenv parses it; `after` holds the comment and the line end."""


@dataclass(frozen=True, slots=True)
class Change:
    """A variable that gets another value. before: None if it is not set."""

    name: str
    before: str | None
    after: str

    def lines(self) -> list[str]:
        """The lines of a diff, without the values of tokens."""
        hidden = self.name in TOKENS.values()
        removed = [] if self.before is None else [f"- {self.name}={HIDDEN if hidden else self.before}"]
        return [*removed, f"+ {self.name}={f'{HIDDEN[:-1]}, {len(self.after)} characters)' if hidden else self.after}"]


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A `.env` file as it was read. text: None if there is none."""

    path: Path
    text: str | None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that will be written later. Raises ConfigError if it cannot be read or not be written."""
        if path.is_dir():
            raise ConfigError(f"{path.absolute()} is a directory: start `inhouse init` in another directory.")
        if not os.access(path.resolve().parent, os.W_OK):
            raise ConfigError(
                f"{path.absolute()} cannot be written, since its directory is read-only for this user: start "
                "`inhouse init` in another directory, or as the directory's owner."
            )
        try:
            return cls(path, read_text(path))
        except FileNotFoundError:
            return cls(path, None)
        except OSError as error:
            raise ConfigError(
                f"{path.absolute()} cannot be read ({error.strerror}): make it a readable file, or move it away."
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path.absolute()} is not UTF-8 text: save it as UTF-8, or move it away.") from error

    def values(self) -> dict[str, str]:
        """The variables by upper-case name, as the settings read them."""
        return _values(self.text or "")

    def changes(self, wanted: Mapping[str, str]) -> list[Change]:
        """The differences between the file and the wanted values."""
        there = self.values()
        return [Change(name, there.get(name), value) for name, value in wanted.items() if there.get(name, "") != value]

    def edited(self, wanted: Mapping[str, str]) -> str:
        """The text with these values. Raises ConfigError for control characters, and if a broken line hides a value."""
        changed = {change.name: change.after for change in self.changes(wanted)}
        for name, value in changed.items():
            if not value.isprintable():
                raise ConfigError(f"{name} cannot be written to {self.path}: it contains control characters.")
        text = _edit(self.text if self.text is not None else HEADER, changed)
        read_back = _values(text)
        if any(read_back.get(name, "") != value for name, value in changed.items()) or _others(
            text, changed
        ) != _others(self.text or "", changed):
            raise ConfigError(
                f"{self.path.absolute()} has a line that is not NAME=value, or a quote that is not closed: correct it "
                "(`inhouse doctor` names the line), then run `inhouse init` again."
            )
        return text

    def save(self, text: str, now: datetime) -> Path | None:
        """Replace the file by `text`, and return the path of the backup; None if there was no file.

        Raises ConfigError if the file was changed since it was read, and StorageError on disk errors.
        """
        if EnvFile.read(self.path).text != self.text:
            raise ConfigError(
                f"{self.path.absolute()} was changed by another program meanwhile: run `inhouse init` again."
            )
        target = self.path.resolve()  # a link stays a link
        backup = None
        if self.text is not None:
            backup = _unused(self.path.with_name(f"{self.path.name}.bak-{now:%Y-%m-%d-%H%M%S}"))
            _write(backup, self.text)
        try:
            _write(target, text)
        except BaseException:  # an interrupt, too, leaves everything as it was
            if backup is not None:
                with suppress(OSError):
                    backup.unlink()
            raise
        return backup


def quoted(value: str) -> str:
    """Format a value without control characters so that python-dotenv reads it back unchanged."""
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return "'{}'".format(escaped.replace("${", "${:-$}{"))  # python-dotenv expands variables inside quotes, too


def _edit(text: str, changed: Mapping[str, str]) -> str:
    """Replace the assignments of the changed variables; add missing ones below their comment, or at the end."""
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    end = "\r\n" if "\r\n" in text else "\n"
    bindings = list(parse_stream(io.StringIO(text, newline="")))
    pieces = [binding.original.string for binding in bindings]
    added = ""
    for name, value in changed.items():
        line = f"{name}={quoted(value)}"
        found = [at for at, binding in enumerate(bindings) if _is_of(binding, name)]
        for at in found[:-1]:  # names differ in case only; which one counts would depend on their order
            pieces[at] = ""
        if found:
            matched = _ASSIGNMENT.fullmatch(pieces[found[-1]])
            before, after = (matched["before"], matched["after"]) if matched else ("", end)
            pieces[found[-1]] = f"{before}{line}{after}"
            continue
        examples = [at for at, binding in enumerate(bindings) if _is_example(binding, name)]
        if examples:
            pieces[examples[-1]] = f"{_ended(pieces[examples[-1]], end)}{line}{end}"
        else:
            added += f"{line}{end}"
    kept = "".join(pieces)
    return mark + (_ended(kept, end) if added else kept) + added


def _ended(text: str, end: str) -> str:
    return text if not text or text.endswith(("\n", "\r")) else text + end


def _is_of(binding: Binding, name: str) -> bool:
    return binding.key is not None and binding.key.upper() == name


def _is_example(binding: Binding, name: str) -> bool:
    """Whether this is a comment such as '#NAME=value'."""
    if binding.key is not None:
        return False
    return re.fullmatch(rf"\s*#[^\S\r\n]*{re.escape(name)}[^\S\r\n]*=[^\r\n]*\s*", binding.original.string) is not None


def _values(text: str) -> dict[str, str]:
    read = dotenv_values(stream=io.StringIO(text, newline=""))
    return {name.upper(): value for name, value in read.items() if value}


def _others(text: str, changed: Iterable[str]) -> list[tuple[str | None, str | None]]:
    """The assignments that must stay as they are."""
    found = parse_stream(io.StringIO(text, newline=""))
    return [(each.key, each.value) for each in found if each.key and each.key.upper() not in changed]


def _unused(path: Path) -> Path:
    candidates = (path if not number else path.with_name(f"{path.name}-{number}") for number in range(1000))
    return next((each for each in candidates if not os.path.lexists(each)), path)


def _write(path: Path, text: str) -> None:
    with new_file(path, force=True) as fresh:
        fresh.write_bytes(text.encode("utf-8"))
