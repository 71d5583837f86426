"""Keeps addresses as links that users wrote or that settings allow, and shows all others as code; pure, linear time.

An address is anything that a client links or fetches: a URL of any scheme, `www.`, an e-mail address, a Discord invite,
and the destination of `[label](destination)`. Code spans are unchanged. Unclosed backticks are escaped, because they
would pair with those added around an address.
"""

import re
from collections.abc import Iterable
from itertools import takewhile

from bot.platforms.markdown_scanner import ADDRESS, Token, TokenKind, beginning_of_address, scan

_ENDS = ".,;:!?'\")]}*_"
_WEB_ADDRESS = re.compile(
    r"""
    (?P<scheme> https?:// )?+ (?P<host> [a-z0-9-]++ (?:\.[a-z0-9-]++)*+ ) (?: :(?P<port>\d{1,5}+) )?+
    (?P<rest> (?:[/?\#].*+)?+ )
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL | re.ASCII,
)
"""A web address whose host is certain for every client: no userinfo, no backslash, no other script."""
_BREAK_BEGUN = re.compile(r"<(?:b(?:r(?:[ \t]{0,3}/?)?)?)?\Z", re.IGNORECASE)
_LONGEST_BREAK = 8


class KnownLinks:
    """The addresses that stay links.

    urls: addresses that users wrote. Variants of these are known too: http or https, with or without `www.` and a final
    slash, any case of the host. hosts: of these, every http and https address on the standard port is known;
    `example.org` is this host, with and without `www.`, and `*.example.org` all hosts below it.
    """

    def __init__(self, urls: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        self._urls = {variant for url in urls for variant in (url, _without_variants(url))}
        named = [host.lower() for host in hosts]
        self._hosts = frozenset(_without_www(host) for host in named if not host.startswith("*."))
        self._parents = tuple(host[1:] for host in named if host.startswith("*."))

    def __contains__(self, address: str) -> bool:
        bare = address.removeprefix("mailto:")
        written = (address, bare, f"mailto:{bare}", f"https://{address}", f"http://{address}")
        return (
            not self._urls.isdisjoint(written)
            or _without_variants(address) in self._urls
            or self._is_on_known_host(address)
        )

    def _is_on_known_host(self, address: str) -> bool:
        found = _WEB_ADDRESS.fullmatch(address)
        if not found or not found["scheme"] or found["port"] not in (None, "80", "443"):
            return False
        host = found["host"].lower()
        return _without_www(host) in self._hosts or host.endswith(self._parents)


def _without_variants(url: str) -> str:
    """The same text for all variants of a web address; another address as it is.

    The path keeps its case: a model could spell out a secret in the case of letters.
    """
    found = _WEB_ADDRESS.fullmatch(url)
    if not found:
        return url
    port = f":{found['port']}" if found["port"] else ""
    return f"//{_without_www(found['host'].lower())}{port}{found['rest'].removesuffix('/')}"


def _without_www(host: str) -> str:
    return host.removeprefix("www.")


def urls_in(text: str) -> frozenset[str]:
    """Find the addresses in a text, without the punctuation that follows them."""
    found = [address.group() for address in ADDRESS.finditer(text)]
    return frozenset(_without_punctuation(each) for address in found for each in (address, _ascii_part(address)))


def with_links(line: str, links: KnownLinks) -> str:
    """Show only addresses in `links` as links. `line` is Markdown outside of fenced code."""
    shown: list[str] = []
    done = 0
    for token in scan(line):
        shown += line[done : token.start], _render_token(line, token, links)
        done = token.end
    return "".join([*shown, line[done:]])


def stable_prefix(line: str) -> int:
    """Number of leading characters of an unfinished line whose rendering later text cannot change."""
    sure = beginning_of_address(line)
    if begun := _BREAK_BEGUN.search(line, max(0, len(line) - _LONGEST_BREAK)):
        sure = min(sure, begun.start())
    for token in scan(line):
        if token.kind in (TokenKind.BACKTICKS, TokenKind.UNFINISHED) or token.end > sure or token.end == len(line):
            return min(sure, token.start)
    return sure


def _render_token(line: str, token: Token, links: KnownLinks) -> str:
    text = line[token.start : token.end]
    if token.kind is TokenKind.BACKTICKS:
        return "\\`" * len(text)
    if token.kind is TokenKind.LINK:
        return _render_link(line, token, links)
    return _render_address(line, token, links) if token.kind is TokenKind.ADDRESS else text


def _render_address(line: str, token: Token, links: KnownLinks) -> str:
    start, end = token.address
    url, beginning = _without_punctuation(line[start:end]), _without_punctuation(_ascii_part(line[start:end]))
    if url in links:
        return line[token.start : token.end] + _separator(line, token.end)
    if beginning in links:  # text without spaces goes on after the address
        after = start + len(beginning)
        return f"{line[token.start : after]} {line[after : token.end]}"
    # The token begins before the address with `](` of a link form that we do not parse.
    before = f"] {line[token.start + 1 : start]}" if start > token.start else ""
    after = start + len(url)
    return f"{before}{_as_code(url, line[max(0, start - 1) : start], line[after : after + 1])}{line[after:end]}"


def _render_link(line: str, token: Token, links: KnownLinks) -> str:
    (start, end), target = token.label, line[slice(*token.address)]
    label, following = with_links(line[start:end], links), line[token.end : token.end + 1]
    if target in links:
        return f"{line[token.start : start]}{label}{line[end : token.end]}"
    previous = line[max(0, token.start - 1) : token.start]
    if not label:
        return _as_code(target, previous, following)
    return f"{' ' if previous == '`' else ''}{label} {_as_code(target, ' ', following)}"


def _separator(line: str, end: int) -> str:
    """A space where the sentence goes on right after a link and clients would take it for a part of the address."""
    following = line[end : end + 2].lstrip(",;!?")
    return " " if following and not following[0].isascii() and not line[end].isspace() else ""


def _as_code(url: str, previous: str, following: str) -> str:
    """Format a URL as code; spaces keep its backticks apart from adjacent backticks and backslashes."""
    return f"{' ' if previous in ('`', chr(92)) else ''}`{url}`{' ' if following == '`' else ''}"


def _ascii_part(address: str) -> str:
    """The beginning of an address up to the first letter of another script."""
    return "".join(takewhile(str.isascii, address))


def _without_punctuation(url: str) -> str:
    """Strip the punctuation of the surrounding sentence from a URL."""
    end, unopened = len(url), url.count(")") - url.count("(")
    while end and url[end - 1] in _ENDS and (url[end - 1] != ")" or unopened > 0):
        unopened -= url[end - 1] == ")"
        end -= 1
    return url[:end]
