"""Whom a text would notify, and which links in it would grow a preview.

In: a message's content with the allowed_mentions and flags that came with it. Out: `Pings` and links. Both are worst
cases: the author is taken to have every permission, so that 'nobody was pinged' never rests on a missing one. Like
Discord, text inside code does not count; a fence or backtick that was never closed is not code.
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
    """Ids of users and roles that get a notification, and whether everybody does. False if nobody does."""

    users: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    everyone: bool = False

    def __bool__(self) -> bool:
        return bool(self.users or self.roles or self.everyone)

    def __or__(self, other: "Pings") -> "Pings":
        return Pings(self.users | other.users, self.roles | other.roles, self.everyone or other.everyone)


NO_PINGS = Pings()


def named(content: str) -> Pings:
    """Everybody that a text names outside of code, whether or not they are to be notified."""
    text = _CODE.sub(" ", content)
    return Pings(frozenset(_USER.findall(text)), frozenset(_ROLE.findall(text)), bool(_EVERYONE.search(text)))


def evaluate(content: str, allowed: dict[str, Any] | None, replied_to: str = "") -> Pings:
    """Whom a post or an edit notifies.

    `allowed` is its allowed_mentions: none given parses everything, in an edit too. `replied_to` is the id of the
    author of the message that is answered, '' if it is no answer.
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
    """The links for which clients would be shown an embed: not in code, not in <>, not with embeds suppressed."""
    if suppressed:
        return ()
    return tuple(_LINK.findall(_BRACKETED.sub(" ", _CODE.sub(" ", content))))
