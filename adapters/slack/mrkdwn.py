"""Markdown as Slack's older mrkdwn, for what takes no markdown block: ephemeral answers, sections, views.

In: Markdown that nothing was escaped in. Out: mrkdwn in which only links are Slack's own marks: no text can mention or
notify anybody.
"""

import re

from slackify_markdown import slackify_markdown  # type: ignore[import-untyped]

_STAND_INS = {"&": "\ue000", "<": "\ue001", ">": "\ue002"}  # private characters, which the converter leaves alone
_ENTITIES = {"\ue000": "&amp;", "\ue001": "&lt;", "\ue002": "&gt;"}
_QUOTE = re.compile(r"^[ \t]*>[> \t]*", re.MULTILINE)


def mrkdwn(markdown: str) -> str:
    """Markdown in mrkdwn, escaped."""
    for stand_in in _ENTITIES:
        markdown = markdown.replace(stand_in, "")
    marks = {match.start(): match.group() for match in _QUOTE.finditer(markdown)}
    kept = {at for start, mark in marks.items() for at in range(start, start + len(mark))}
    hidden = "".join(
        _STAND_INS.get(character, character) if at not in kept else character for at, character in enumerate(markdown)
    )
    converted: str = slackify_markdown(hidden).rstrip("\n")
    # Inside the marks of a link an entity would be part of the address.
    converted = re.sub(r"<(https?://[^|>\s]*)", lambda found: found.group().replace("\ue000", "&"), converted)
    converted = re.sub("%EE%80%80", "&", converted, flags=re.IGNORECASE)
    for stand_in, entity in _ENTITIES.items():
        converted = converted.replace(stand_in, entity)
    return converted
