"""Decides what a model that cannot see gets of a prompt with pictures; pure functions."""

from dataclasses import replace
from itertools import takewhile

from bot.conversations.conversations import picture_line
from bot.types.messages import Picture, Prompt, Role


def asked_pictures(prompt: Prompt) -> list[Picture]:
    """The pictures that the question may be about: its own, and those of messages since the last answer."""
    unanswered = takewhile(lambda turn: turn.role is Role.USER, reversed(prompt.turns))
    return [picture for turn in reversed(list(unanswered)) for picture in turn.pictures]


def is_only_pictures(prompt: Prompt) -> bool:
    """Whether the question has no text besides the names of its pictures."""
    text = prompt.turns[-1].text
    for picture in prompt.turns[-1].pictures:
        text = text.replace(picture_line(picture.name), "", 1)
    return bool(prompt.turns[-1].pictures) and not text.strip()


def without_pictures(prompt: Prompt) -> Prompt:
    """The prompt with the names of pictures only."""
    return replace(prompt, turns=tuple(replace(turn, pictures=()) for turn in prompt.turns))
