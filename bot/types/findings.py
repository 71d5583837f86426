"""Result type of `inhouse doctor` checks, for `bot` and the platform adapters."""

import os
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Severity of a finding, as shown to users."""

    OK = "ok"
    WARNING = "warning"  # Inhouse runs, but degraded
    WRONG = "wrong"  # a configured feature does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fix` says what to do; an ok finding may have one too."""

    check: str
    state: State
    found: str
    fix: str = ""


def ok(check: str, found: str, fix: str = "") -> Finding:
    """Make an OK finding."""
    return Finding(check, State.OK, found, fix)


def warning(check: str, found: str, fix: str = "") -> Finding:
    """Make a WARNING finding."""
    return Finding(check, State.WARNING, found, fix)


def wrong(check: str, found: str, fix: str = "") -> Finding:
    """Make a WRONG finding."""
    return Finding(check, State.WRONG, found, fix)


def from_error(check: str, state: State, sentence: str) -> Finding:
    """Split the sentence of an InhouseError, 'what happened: what to do' or 'what happened; what to do'."""
    sentence = " ".join(sentence.split())
    found, mark, fix = sentence.rpartition("; ") if "; " in sentence else sentence.partition(": ")
    if not mark:
        return Finding(check, state, sentence)
    fix = f"{fix[:1].upper()}{fix[1:]}"
    return Finding(check, state, found, fix if fix.endswith((".", "?")) else f"{fix}.")


def reason(error: BaseException) -> str:
    """Describe why a connection or a read failed, in a few words without untrusted text."""
    if isinstance(error, TimeoutError):
        return "no answer"
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:  # name resolution errors are negative
        said = os.strerror(number)
        return f"{said[:1].lower()}{said[1:]}"
    return str(getattr(error, "strerror", None) or type(error).__name__)
