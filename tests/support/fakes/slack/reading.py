"""What a reader of a message sees, and what is in it that Slack would act on.

In: text and blocks as they were sent. Out: the text that is shown, the buttons, the unescaped mentions, the links.
Mentions are searched in everything that is text, in code as well: Slack parses them there too.
"""

import html
import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]  # Any: whatever JSON holds

_MENTION = re.compile(r"<(?:!(?:channel|here|everyone)\b|@[UW][A-Z0-9]+|!subteam\^[A-Z0-9]+)[^<>]*>")
_LINK = re.compile(r"https?://[^\s<>|)\]]+")
_DESTINATION = re.compile(r"(\]\([^()\s]*\))")
_RICH_MENTIONS = {"user": "<@{user_id}>", "usergroup": "<!subteam^{usergroup_id}>", "broadcast": "<!{range}>"}
_NOT_SHOWN = {"url", "image_url", "value", "action_id", "block_id", "type", "alt_text", "style", "id", "slack_file"}


def mentions(*parts: object) -> tuple[str, ...]:
    """Every mention left unescaped in texts, blocks or chunks."""
    return tuple(found for part in parts for text in _texts(part, plain=False) for found in _MENTION.findall(text))


def links(*parts: object) -> tuple[str, ...]:
    """Every link in texts, blocks or chunks."""
    return tuple(found for part in parts for text in _texts(part) for found in _LINK.findall(text))


def decoded(text: str) -> str:
    """Entities as characters, except inside the destination of a link."""
    parts = _DESTINATION.split(text)
    return "".join(part if at % 2 else html.unescape(part) for at, part in enumerate(parts))


def shown(blocks: list[Json], text: str) -> str:
    """The text of the blocks, buttons left out; the text field if no block has any."""
    found = [piece for block in blocks for piece in _block_texts(block)]
    return "\n".join(decoded(piece) for piece in found) if found else decoded(text)


def elements(blocks: list[Json]) -> list[Json]:
    """Everything that can be pressed or chosen."""
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
    """What one block shows as text."""
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
    """Every text in a part, however deep. Without `plain`: only what Slack parses, and mentions of rich text as
    such."""
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
