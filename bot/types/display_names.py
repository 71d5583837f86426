"""Sanitizes names and words from outside for use in the bot's sentences; pure functions.

Names of users, platforms and files are untrusted: they must not break a line, open a code block or change the reading
direction of the text around them. The cost does not depend on the length of the name.
"""

import unicodedata

LENGTH = 60
"""Maximum characters of a name in a sentence."""

_LOOKED_AT = 20
"""Factor of the shown length that is scanned, because invisible characters are removed."""

_CATEGORIES = {"Cc": " ", "Cf": "", "Cs": "?", "Zl": " ", "Zp": " "}
"""Replacements for controls, format and bidi characters, surrogates, and line separators, by Unicode category."""


def as_code(name: str, length: int = LENGTH) -> str:
    """Format `name` as a one-line code span of at most `length` characters, without backticks of its own."""
    return f"`{one_line(name, length).replace('`', chr(39)) or '(no name)'}`"


def one_line(text: str, length: int = LENGTH) -> str:
    """Shorten a text to one line, without control, format and bidi characters."""
    head = text[: _LOOKED_AT * length]
    line = " ".join("".join(_CATEGORIES.get(unicodedata.category(char), char) for char in head).split())
    return line if len(head) == len(text) and len(line) <= length else f"{line[: length - 1].rstrip()}…"
