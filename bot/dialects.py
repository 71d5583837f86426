"""Markdown as a platform can show it, and without links that nobody asked for; pure functions.

In: Markdown of a model. Out: Markdown of a dialect. URLs that no person wrote become code, so that no client fetches
them on sight; where there are no tables, they become code blocks. Code stays as it is.
"""

import re
from collections.abc import Iterator, Set

from bot.adapter import Dialect

_URL = re.compile(r"\bhttps?://[^\s<>|`]+", re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\]\n]*)\]\((<?)(https?://[^\s<>()]*(?:\([^\s<>()]*\)[^\s<>()]*)*)>?(?:\s+\"[^\"]*\")?\)")
_CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
_RULE = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
_ENDS = ".,;:!?'\")]}*_"


def urls_in(text: str) -> frozenset[str]:
    """The URLs that a text holds, without the punctuation that follows them."""
    return frozenset(_bare(found.group()) for found in _URL.finditer(text))


def render(text: str, dialect: Dialect, links: Set[str]) -> str:
    """`text` in `dialect`, with only the URLs of `links` as links."""
    blocks = []
    for code, lines in _blocks(text.split("\n")):
        if code:
            blocks.append("\n".join(lines))
        elif dialect is Dialect.DISCORD and _is_table(lines):
            blocks.append(_boxed(lines))
        else:
            blocks.append("\n".join(_without_links(line, links) for line in lines))
    return "\n".join(blocks)


def _blocks(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """The lines in runs: fenced code (True), and tables and other text apart from each other (False)."""
    run: list[str] = []
    marks = ""
    position = 0
    while position < len(lines):
        line = lines[position]
        fence = _FENCE.match(line)
        if marks:
            run.append(line)
            if fence and fence.group(1).startswith(marks) and not fence.group(2).strip():
                yield True, run
                run, marks = [], ""
        elif fence:
            if run:
                yield False, run
            run, marks = [line], fence.group(1)
        elif _is_table(lines[position : position + 2]):
            if run:
                yield False, run
            end = position + 2
            while end < len(lines) and "|" in lines[end]:
                end += 1
            yield False, lines[position:end]
            run, position = [], end
            continue
        else:
            run.append(line)
        position += 1
    if run:
        yield bool(marks), run


def _is_table(lines: list[str]) -> bool:
    return len(lines) >= 2 and "|" in lines[0] and "|" in lines[1] and bool(_RULE.match(lines[1]))


def _boxed(lines: list[str]) -> str:
    """A table as a code block with straight columns."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    del rows[1]
    widths = [
        max(len(row[column]) if column < len(row) else 0 for row in rows) for column in range(max(map(len, rows)))
    ]
    texts = [
        " | ".join(
            (row[column] if column < len(row) else "").ljust(width) for column, width in enumerate(widths)
        ).rstrip()
        for row in rows
    ]
    texts.insert(1, "-+-".join("-" * width for width in widths))
    return "\n".join(["```", *texts, "```"])


def _without_links(line: str, links: Set[str]) -> str:
    """A line whose unknown URLs are code; those in code spans are code already."""
    shown, position = [], 0
    for span in _CODE_SPAN.finditer(line):
        shown += [_shy(line[position : span.start()], links), span.group()]
        position = span.end()
    return "".join([*shown, _shy(line[position:], links)])


def _bare(url: str) -> str:
    """A URL without the punctuation of the sentence that it stands in."""
    while url and (url[-1] in _ENDS) and not (url[-1] == ")" and url.count("(") >= url.count(")")):
        url = url[:-1]
    return url


def _shy(text: str, links: Set[str]) -> str:
    def unlinked(found: re.Match[str]) -> str:
        label, url = found.group(1), found.group(3)
        return found.group() if url in links else f"{label} {url}".strip()

    def coded(found: re.Match[str]) -> str:
        url = _bare(found.group())
        rest = found.group()[len(url) :]
        return found.group() if url in links else f"`{url}`{rest}"

    return _URL.sub(coded, _LINK.sub(unlinked, text))
