"""Shows names and words from outside in sentences of the bot; pure functions.

What people, platforms and files are called is untrusted text: it must not end a line, open a code block or turn the
reading direction of the sentence around it. The cost does not depend on the length of the name.
"""

import unicodedata

LENGTH = 60
"""The most characters of a name that a sentence shows."""

_LOOKED_AT = 20
"""A name is looked at up to this multiple of what is shown of it: invisible characters take no room."""

_CATEGORIES = {"Cc": " ", "Cf": "", "Cs": "?", "Zl": " ", "Zp": " "}
"""What stands for controls, invisible and bidirectional format characters, surrogates, and separators of lines."""


def as_code(name: str, length: int = LENGTH) -> str:
    """`name` as a code span: on one line, at most `length` characters of it, without backticks of its own."""
    return f"`{one_line(name, length).replace('`', chr(39)) or '(no name)'}`"


def one_line(text: str, length: int = LENGTH) -> str:
    """The beginning of a text on one line, without control, format and bidirectional characters."""
    head = text[: _LOOKED_AT * length]
    line = " ".join("".join(_CATEGORIES.get(unicodedata.category(char), char) for char in head).split())
    return line if len(head) == len(text) and len(line) <= length else f"{line[: length - 1].rstrip()}…"
