"""Finds whom a text would notify, and which of its links would get a preview.

Assumes the worst case: the author has every permission, so that no test passes only because a permission is missing.
Like Discord, ignores text inside code; an unclosed fence or backtick is not code.
"""

import re
from dataclasses import dataclass
from typing import Any

_CODE = re.compile(r"```.*?```|``.+?``|`[^`]+`", re.DOTALL)
_BRACKETED = re.compile(r"<https?://[^\s>]+>")
_LINK = re.compile(r"https?://[^\s<>]+")
_USER = re.compile(r"<@!?(\d+)>")
_ROLE = re.compile(r"<@&(\d+)>")
_EVERYONE = re.compile(r"@(?:everyone|here)\b")


@dataclass(frozen=True)
class Pings:
    """Users and roles (ids) that are notified, and whether @everyone is. False if none are."""

    users: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    everyone: bool = False

    def __bool__(self) -> bool:
        return bool(self.users or self.roles or self.everyone)

    def __or__(self, other: "Pings") -> "Pings":
        return Pings(self.users | other.users, self.roles | other.roles, self.everyone or other.everyone)


NO_PINGS = Pings()


def named(content: str) -> Pings:
    """All mentions in a text outside of code, whether or not they would notify."""
    text = _CODE.sub(" ", content)
    return Pings(frozenset(_USER.findall(text)), frozenset(_ROLE.findall(text)), bool(_EVERYONE.search(text)))


def evaluate(content: str, allowed: dict[str, Any] | None, replied_to: str = "") -> Pings:
    """The pings of a post or an edit.

    `allowed` is its allowed_mentions; without it everything is parsed, in an edit too. `replied_to` is the id of the
    author of the message that is replied to, '' if none.
    """
    found = named(content)
    if allowed is None:
        return found | Pings(frozenset({replied_to} - {""}))
    parse = allowed.get("parse") or []
    users = found.users if "users" in parse else found.users & set(map(str, allowed.get("users") or []))
    roles = found.roles if "roles" in parse else found.roles & set(map(str, allowed.get("roles") or []))
    if replied_to and allowed.get("replied_user"):
        users |= {replied_to}
    return Pings(users, roles, found.everyone and "everyone" in parse)


def previews(content: str, suppressed: bool) -> tuple[str, ...]:
    """The links that get a preview: outside code and <>, and only if embeds are not suppressed."""
    if suppressed:
        return ()
    return tuple(_LINK.findall(_BRACKETED.sub(" ", _CODE.sub(" ", content))))
