"""Role markers that are plain text, and content that would forge them.

Comes in: what a chat template writes around the contents, without its control tokens. Goes out: a function that defuses such
markers in content. Promises: text that holds none of them is unchanged, and a defused one differs by one visible space.

Two kinds are known. A bracketed marker (`<|user|>`, `[INST]`, `<<SYS>>`) in a model whose tokenizer has no such token is
defused wherever it stands: `< |user|>`. A label at the start of a line (`Instruct:`, `### Response:`) is defused only at the
start of a line, whatever its case: `Instruct :`.
"""

import re
from collections.abc import Iterable

_BRACKETED = re.compile(r"<{1,2}[^<>\s]{1,40}>{1,2}|\[/?[A-Z][A-Z_ ]{0,30}\]")
_LABEL = re.compile(r"[ \t]*(#*[ \t]*\w[\w \t]{0,30}?)[ \t]*:")
_LINE_START = r"(?:\A|(?<=[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]))"


class PlainMarkers:
    """The plain-text markers of one template. `head` comes before the first content, `between` around the others."""

    def __init__(self, head: str, between: Iterable[str]) -> None:
        between = list(between)
        brackets = {found for text in (head, *between) for found in _BRACKETED.findall(text)}
        # The head may hold prose of the template's own, where a colon at the start of a line means nothing.
        lines = [line for text in between for line in text.splitlines()]
        labels = {match.group(1) for line in lines if (match := _LABEL.match(line))}
        either = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
        self._brackets = re.compile("|".join(map(re.escape, brackets)) or "(?!)")
        self._labels = re.compile(f"{_LINE_START}(\\s*(?:{either})\\s*):" if either else "(?!)", re.IGNORECASE)

    def defuse(self, text: str) -> str:
        """`text` without anything that reads as one of the markers."""
        text = self._brackets.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", text)
        return self._labels.sub(r"\1 :", text)
