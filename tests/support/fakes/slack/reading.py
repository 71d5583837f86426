"""Extracts a message's visible text, buttons, unescaped mentions and links from the text and blocks that were sent.

Finds mentions in all text, code included, because Slack parses them there too.
"""

import html
import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]  # Any: JSON values

_MENTION = re.compile(r"<(?:!(?:channel|here|everyone)\b|@[UW][A-Z0-9]+|!subteam\^[A-Z0-9]+)[^<>]*>")
_LINK = re.compile(r"https?://[^\s<>|)\]]+")
_DESTINATION = re.compile(r"(\]\([^()\s]*\))")
_RICH_MENTIONS = {"user": "<@{user_id}>", "usergroup": "<!subteam^{usergroup_id}>", "broadcast": "<!{range}>"}
_NOT_SHOWN = {"url", "image_url", "value", "action_id", "block_id", "type", "alt_text", "style", "id", "slack_file"}


def mentions(*parts: object) -> tuple[str, ...]:
    """All unescaped mentions in texts, blocks or chunks."""
    return tuple(found for part in parts for text in _texts(part, plain=False) for found in _MENTION.findall(text))


def links(*parts: object) -> tuple[str, ...]:
    """All links in texts, blocks or chunks."""
    return tuple(found for part in parts for text in _texts(part) for found in _LINK.findall(text))


def decoded(text: str) -> str:
    """Replaces entities by characters, except inside link destinations."""
    parts = _DESTINATION.split(text)
    return "".join(part if at % 2 else html.unescape(part) for at, part in enumerate(parts))


def shown(blocks: list[Json], text: str) -> str:
    """The text of the blocks without buttons; the text field if no block has text."""
    found = [piece for block in blocks for piece in _block_texts(block)]
    return "\n".join(decoded(piece) for piece in found) if found else decoded(text)


def elements(blocks: list[Json]) -> list[Json]:
    """All interactive elements."""
    found: list[Json] = []
    for block in blocks:
        if block.get("type") in ("actions", "context_actions"):
            found += block.get("elements") or []
        elif block.get("type") == "section" and block.get("accessory"):
            found.append(block["accessory"])
        elif block.get("type") == "input" and block.get("element"):
            found.append(block["element"])
    return [{**each, "type": each.get("type", "")} for each in found]


def _block_texts(block: Json) -> Iterator[str]:
    """The visible texts of one block."""
    kind = block.get("type")
    if kind == "markdown":
        yield str(block.get("text", ""))
    elif kind in ("section", "header"):
        if block.get("text"):
            yield str(block["text"].get("text", ""))
        for each in block.get("fields") or []:
            yield str(each.get("text", ""))
    elif kind == "context":
        for each in block.get("elements") or []:
            if each.get("type") in ("mrkdwn", "plain_text"):
                yield str(each.get("text", ""))
    elif kind == "rich_text":
        yield "".join(_texts(block.get("elements") or []))


def _texts(part: object, plain: bool = True) -> Iterator[str]:
    """All texts in a part, recursively. Without `plain`: only parsed text, with rich text mentions as markup."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        if part.get("type") in _RICH_MENTIONS:
            yield _RICH_MENTIONS[part["type"]].format_map({"user_id": "", "usergroup_id": "", "range": "", **part})
        elif plain or part.get("type") != "plain_text":
            for key, value in part.items():
                if key not in _NOT_SHOWN:
                    yield from _texts(value, plain)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _texts(value, plain)
