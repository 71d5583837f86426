"""Converts Slack message text to plain text: names instead of ids, labels for links, no entities; pure.

Slack puts only mentions and links between `<` and `>`, and encodes `&`, `<` and `>` as entities. The mention that
addresses the bot is removed.
"""

import re
from collections.abc import Mapping

_TOKEN = re.compile(r"<([^<>]*+)>")
_USER = re.compile(r"<@([A-Z0-9]++)(?:\|[^<>]*+)?>")
_CHANNEL = re.compile(r"<#([A-Z0-9]++)\|?>")


def users_in(text: str) -> list[str]:
    """Ids of the mentioned users, without duplicates."""
    return list(dict.fromkeys(_USER.findall(text)))


def channels_in(text: str) -> list[str]:
    """Ids of the channels that are mentioned without a name, without duplicates."""
    return list(dict.fromkeys(_CHANNEL.findall(text)))


def mentions(text: str, user_id: str) -> bool:
    """Whether a user is mentioned."""
    return user_id in _USER.findall(text)


def plain_text(text: str, names: Mapping[str, str], bot_user: str) -> str:
    """Convert a text. `names`: names of users and channels by id; `bot_user`: the bot's user id, whose
    mention is stripped from the beginning."""
    addressing = re.match(rf"(?:\s*+<@{re.escape(bot_user)}(?:\|[^<>]*+)?>[\s,:]*+)++", text)
    parts, done = [], addressing.end() if addressing else 0
    for token in _TOKEN.finditer(text, done):
        parts += [decoded(text[done : token.start()]), _readable(token[1], names)]
        done = token.end()
    return "".join([*parts, decoded(text[done:])]).strip()


def without_last_mention(text: str, bot_user: str) -> str:
    """Remove a mention of the bot from the end of a text."""
    text = text.rstrip()
    start = text.rfind("<")
    mention = _USER.fullmatch(text, start) if start >= 0 else None
    return text[:start].rstrip(" ,:\n\t") if mention and mention[1] == bot_user else text


def decoded(text: str) -> str:
    """Decode Slack's three entities."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _readable(inside: str, names: Mapping[str, str]) -> str:
    """Plain text for `<inside>`."""
    target, _, label = inside.partition("|")
    label = decoded(label)
    if target.startswith("@"):
        return f"@{names.get(target[1:]) or label or 'someone'}"
    if target.startswith("#"):
        return f"#{label or names.get(target[1:]) or 'a channel'}"
    if target.startswith("!"):
        return _special(target, label)
    return _link(decoded(target), label)


def _special(target: str, label: str) -> str:
    if target.startswith("!date"):
        return label or "a date"
    if target.startswith("!subteam"):
        return label if label.startswith("@") else f"@{label or 'a group'}"
    return f"@{target[1:]}"


def _link(url: str, label: str) -> str:
    bare = re.sub(r"^(?:https?://|mailto:|tel:)", "", url)
    if label and label.rstrip("/") == bare.rstrip("/"):
        return label if url.startswith(("mailto:", "tel:")) else url
    return f"{label} ({url})" if label and label != url else url
