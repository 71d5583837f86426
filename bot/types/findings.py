"""What a check of `inhouse doctor` found: plain data, made by the checks of `bot` and of the platforms alike."""

import os
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
    if not mark:
        return Finding(check, state, sentence)
    return Finding(check, state, found, f"{fix[:1].upper()}{fix[1:].rstrip('.')}.")


def reason(error: BaseException) -> str:
    """Why something could not be reached or read, in a few words that quote nothing."""
    if isinstance(error, TimeoutError):
        return "no answer"
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:  # below 0 they are of name resolution
        said = os.strerror(number)
        return f"{said[:1].lower()}{said[1:]}"
    return str(getattr(error, "strerror", None) or type(error).__name__)
