"""Which URLs of a line are links, and which are shown as code; pure functions.

In: one line of Markdown that is not fenced code, and the URLs that people wrote. Out: the line in which every other URL
is code, so that no client fetches it on sight. Code spans stay as they are. A backtick without a partner is escaped: it
would otherwise pair with one of those that are put around a URL.
"""

import re
from collections.abc import Set

_INLINE = re.compile(
    r"""
      (?P<escaped> \\[^\w\s] )
    | (?P<code> (?P<ticks>`+)(?!`) .+? (?<!`)(?P=ticks)(?!`) )
    | (?P<lone> `+ )
    | (?P<link> !?\[ (?P<label>[^\[\]\n]*) \]
          \( <? (?P<target> https?://[^\s<>()`]* (?:\([^\s<>()`]*\)[^\s<>()`]*)* ) >? (?:\s+"[^")]*")? \) )
    | (?P<other> \]\(\s*<? )? (?P<url> https?://[^\s<>|`]+ )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SCHEME = r"h(?:t(?:t(?:ps?(?::/?/?)?)?)?)?"
_UNFINISHED = re.compile(
    rf"""(?:
      !?\[[^\[\]\n]* (?: \] (?: \( (?:[^()\n]|\([^()\n]*\)?)* )? )?
    | \] (?: \(\s*<?(?:{_SCHEME})? )?
    | {_SCHEME}
    | [!\\]
    )$""",
    re.VERBOSE | re.IGNORECASE,
)
"""The end of a text that may become a link, a URL or an escape."""

_ENDS = ".,;:!?'\")]}*_"


def urls_in(text: str) -> frozenset[str]:
    """The URLs that a text holds, without the punctuation that follows them."""
    return frozenset(_bare(found.group()) for found in re.finditer(r"https?://[^\s<>|`]+", text, re.IGNORECASE))


def with_links(line: str, links: Set[str]) -> str:
    """`line` with only the URLs of `links` as links."""

    def shown(found: re.Match[str]) -> str:
        if found["escaped"] or found["code"]:
            return found.group()
        if found["lone"]:
            # a long row may be a fence that stands where we know of none: to escape it would break the code
            return found["lone"] if len(found["lone"]) > 2 else "\\`" * len(found["lone"])
        if found["url"]:
            url, start = _bare(found["url"]), found.start("url")
            if url in links:
                return found.group()
            before = f"] {found['other'][1:]}" if found["other"] else ""  # of a link in a form that we do not know
            code = _code(url, line[start - 1 : start], line[start + len(url) :][:1])
            return f"{before}{code}{found['url'][len(url) :]}"
        label, target = with_links(found["label"], links), found["target"]
        if target in links:
            return f"{line[found.start() : found.start('label')]}{label}{line[found.end('label') : found.end()]}"
        previous, following = line[found.start() - 1 : found.start()], line[found.end() :][:1]
        if not label:
            return _code(target, previous, following)
        return f"{' ' if previous == '`' else ''}{label} {_code(target, ' ', following)}"

    return _INLINE.sub(shown, line)


def settled(line: str) -> int:
    """How many characters of a line that goes on are shown alike, however it does."""
    unfinished = _UNFINISHED.search(line)
    end = unfinished.start() if unfinished else len(line)
    for found in _INLINE.finditer(line):
        if found["lone"] or found.end() >= end:
            return min(end, found.start())
    return end


def _code(url: str, previous: str, following: str) -> str:
    """A URL as code, kept apart from the characters beside it that would take its backticks for theirs."""
    return f"{' ' if previous in ('`', chr(92)) else ''}`{url}`{' ' if following == '`' else ''}"


def _bare(url: str) -> str:
    """A URL without the punctuation of the sentence that it stands in."""
    end, unopened = len(url), url.count(")") - url.count("(")
    while end and url[end - 1] in _ENDS and (url[end - 1] != ")" or unopened > 0):
        unopened -= url[end - 1] == ")"
        end -= 1
    return url[:end]
