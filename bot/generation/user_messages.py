"""Formats queue positions, durations and load progress for users; pure functions."""

from collections.abc import Sequence

from bot.conversations.queue_entries import Place
from bot.types.display_names import as_code
from bot.types.engine import LoadProgress


def waiting_line(place: Place) -> str:
    """Format a queue position: '2nd in line, about 20 s'."""
    text = f"{ordinal(place.number)} in line"
    return text if place.seconds is None else f"{text}, {about(place.seconds)}"


def loading_line(model: str, progress: LoadProgress, taken_s: float, *, again: bool = False) -> str:
    """Format load progress: 'loading phi-4, 40 %, about 20 s left'; the time appears from 20 % on.

    again: say 'restarting the model', because users saw it run before.
    """
    if progress.message:
        return progress.message
    text = "restarting the model" if again else f"loading {model}"
    if progress.fraction <= 0:
        return f"{text} …"
    text += f", {progress.fraction:.0%}"
    if 0.2 <= progress.fraction < 1:
        text += f", {about(taken_s / progress.fraction - taken_s)} left"
    return text


def ordinal(number: int) -> str:
    """Format an ordinal number: 1st, 2nd, 3rd, 4th, 11th, 21st."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def about(seconds: float) -> str:
    """Format a rounded duration: 'about 20 s', 'about 3 min'."""
    if seconds < 10:
        return f"about {max(1, round(seconds))} s"
    if seconds < 90:
        return f"about {round(seconds / 5) * 5} s"
    return f"about {round(seconds / 60)} min"


def cannot_see(names: Sequence[str], other: str) -> str:
    """The sentence for pictures that a model cannot see. `other`: a model that can, '' if there is none here."""
    hint = f"; {as_code(other)} here can see them" if other else ""
    return f"I cannot see images, so I left out {', '.join(map(as_code, names))}{hint}."


def counted(number: int, noun: str) -> str:
    """Format a count: '1 message', '3 messages'."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
