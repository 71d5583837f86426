"""What a check of `inhouse doctor` found: plain data, made by the checks of `bot` and of the platforms alike."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How things stand, in the words that people read."""

    OK = "ok"
    WARNING = "warning"  # Inhouse runs, but not as well as it could
    WRONG = "wrong"  # something that was asked for does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `fix` says what to do; it may also stand beside something that is ok."""

    check: str
    state: State
    found: str
    fix: str = ""


def ok(check: str, found: str, fix: str = "") -> Finding:
    """All is well."""
    return Finding(check, State.OK, found, fix)


def warning(check: str, found: str, fix: str = "") -> Finding:
    """It runs, but."""
    return Finding(check, State.WARNING, found, fix)


def wrong(check: str, found: str, fix: str = "") -> Finding:
    """It does not work."""
    return Finding(check, State.WRONG, found, fix)


def told(check: str, state: State, sentence: str) -> Finding:
    """A sentence of one of our errors, 'what happened: what to do' or 'what happened; what to do', taken apart."""
    sentence = " ".join(sentence.split())
    found, mark, fix = sentence.rpartition("; ") if "; " in sentence else sentence.partition(": ")
    return Finding(check, state, found, fix) if mark else Finding(check, state, sentence)
