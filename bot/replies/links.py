"""Keeps only addresses that users wrote as links and shows all others as code; pure functions, linear time.

An address is anything that a client links or fetches: a URL of any scheme, `www.`, an e-mail address, a Discord invite,
and the destination of `[label](destination)`. Code spans are unchanged. Unclosed backticks are escaped, because they
would pair with those added around an address.
"""

from collections.abc import Set

from bot.platforms.markdown_scanner import ADDRESS, Kind, Token, beginning_of_address, scan

_ENDS = ".,;:!?'\")]}*_"


def urls_in(text: str) -> frozenset[str]:
    """Find the addresses in a text, without the punctuation that follows them."""
    return frozenset(_bare(found.group()) for found in ADDRESS.finditer(text))


def with_links(line: str, links: Set[str]) -> str:
    """Show only addresses in `links` as links. `line` is Markdown outside of fenced code."""
    shown: list[str] = []
    done = 0
    for token in scan(line):
        shown += line[done : token.start], _shown(line, token, links)
        done = token.end
    return "".join([*shown, line[done:]])


def stable_prefix(line: str) -> int:
    """Number of leading characters of an unfinished line whose rendering later text cannot change."""
    sure = beginning_of_address(line)
    for token in scan(line):
        if token.kind in (Kind.BACKTICKS, Kind.UNFINISHED) or token.end > sure or token.end == len(line):
            return min(sure, token.start)
    return sure


def _shown(line: str, token: Token, links: Set[str]) -> str:
    text = line[token.start : token.end]
    if token.kind is Kind.BACKTICKS:
        # A long run may be a fence in a context that we do not parse; escaping it would break the code.
        return text if len(text) > 2 else "\\`" * len(text)
    if token.kind is Kind.LINK:
        return _link(line, token, links)
    return _address(line, token, links) if token.kind is Kind.ADDRESS else text


def _address(line: str, token: Token, links: Set[str]) -> str:
    start, end = token.address
    url = _bare(line[start:end])
    if _is_known(url, links):
        return line[token.start : token.end]
    # The token begins before the address with `](` of a link form that we do not parse.
    before = f"] {line[token.start + 1 : start]}" if start > token.start else ""
    after = start + len(url)
    return f"{before}{_code(url, line[max(0, start - 1) : start], line[after : after + 1])}{line[after:end]}"


def _link(line: str, token: Token, links: Set[str]) -> str:
    (start, end), target = token.label, line[slice(*token.address)]
    label, following = with_links(line[start:end], links), line[token.end : token.end + 1]
    if _is_known(target, links):
        return f"{line[token.start : start]}{label}{line[end : token.end]}"
    previous = line[max(0, token.start - 1) : token.start]
    if not label:
        return _code(target, previous, following)
    return f"{' ' if previous == '`' else ''}{label} {_code(target, ' ', following)}"


def _is_known(address: str, links: Set[str]) -> bool:
    """Whether a user wrote this address, perhaps with a scheme that clients add."""
    bare = address.removeprefix("mailto:")
    return not links.isdisjoint((address, bare, f"mailto:{bare}", f"https://{address}", f"http://{address}"))


def _code(url: str, previous: str, following: str) -> str:
    """Format a URL as code; spaces keep its backticks apart from adjacent backticks and backslashes."""
    return f"{' ' if previous in ('`', chr(92)) else ''}`{url}`{' ' if following == '`' else ''}"


def _bare(url: str) -> str:
    """Strip the punctuation of the surrounding sentence from a URL."""
    end, unopened = len(url), url.count(")") - url.count("(")
    while end and url[end - 1] in _ENDS and (url[end - 1] != ")" or unopened > 0):
        unopened -= url[end - 1] == ")"
        end -= 1
    return url[:end]
