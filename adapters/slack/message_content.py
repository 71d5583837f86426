"""Reads what a message shows, from its text, blocks and attachments, as Markdown; pure.

The result keeps Slack's `<...>` for mentions and links and its entities: `message_text` decodes them. Each piece of
text comes once, also where a bot repeats it for notifications.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from adapters.slack.json_fields import Raw, object_of, objects_of, text_of
from adapters.slack.message_text import decoded
from bot.platforms.splitter import safe_cut

MAX_CHARS = 40_000
"""The most characters that are read of the text and blocks of a message, and of its attachments."""
MAX_ATTACHMENTS = 20
MAX_ROWS, MAX_CELLS = 200, 40
CUT = "\n[…]"
"""Stands for what is left out of a long message."""

_BOLD = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]{1,300}+)(?<!\s)\*(?![\w*])")
_STRIKE = re.compile(r"(?<![\w~])~(?=[^\s~])([^~\n]{1,300}+)(?<!\s)~(?![\w~])")
_CODE = re.compile(r"(`++)")
_WORDS = re.compile(r"\w++")
_ID = re.compile(r"[A-Z0-9]++")
_PIPE = re.compile(r"<[^<>]*+>|\|")


def shown_text(raw: Raw) -> str:
    """The text and the blocks of a message; the text is left out where the blocks repeat it.

    Slack shows the text of a message with blocks in notifications only; of people's messages it is always a copy.
    """
    text, blocks = text_of(raw, "text"), objects_of(raw, "blocks")
    copied = not text_of(raw, "bot_id") and any(text_of(each, "type") == "rich_text" for each in blocks)
    if text and text == _unformatted(blocks):
        return _cut(text)
    content = _blocks(blocks)
    if content and (copied or _repeats(content, text)):
        return _cut(content)
    return _cut(_joined([text, content]))


def attached_text(raw: Raw, shown: str) -> str:
    """The attachments of a message: forwarded messages, previews of links, and what older apps send.

    Pieces that are in `shown`, the rest of the message, are left out.
    """
    known = {_normalized(shown), *(_normalized(line) for line in shown.split("\n")), ""}
    pieces = []
    for attachment in objects_of(raw, "attachments")[:MAX_ATTACHMENTS]:
        fresh = []
        for piece in _attachment(attachment):
            if (normalized := _normalized(piece)) not in known:
                known.add(normalized)
                fresh.append(piece)
        piece = "\n".join(fresh)
        forwarded = attachment.get("is_share") is True or attachment.get("is_msg_unfurl") is True
        pieces.append(_quoted(piece) if forwarded and piece else piece)
    return _cut(_joined(pieces))


def _attachment(attachment: Raw) -> Iterable[str]:
    """The pieces of one attachment, as Slack shows them; its fallback if there are no others."""
    link, title = text_of(attachment, "title_link"), text_of(attachment, "title")
    blocks = objects_of(attachment, "blocks") or [
        block
        for forwarded in objects_of(attachment, "message_blocks")
        for block in objects_of(object_of(forwarded, "message"), "blocks")
    ]
    content, text = _blocks(blocks), _from_mrkdwn(text_of(attachment, "text"))
    pieces = [
        _from_mrkdwn(text_of(attachment, "pretext")),
        text_of(attachment, "author_name"),
        _token(link, _literal(title)) if link and title else _literal(title),
        "" if content and _repeats(content, text) else text,
        content,
        *(
            ": ".join(filter(None, (_literal(text_of(field, "title")), _from_mrkdwn(text_of(field, "value")))))
            for field in objects_of(attachment, "fields")
        ),
        _literal(text_of(attachment, "footer")),
    ]
    return [piece for piece in pieces if piece.strip()] or [text_of(attachment, "fallback")]


def _blocks(blocks: Iterable[Raw]) -> str:
    return _joined(_block(block) for block in blocks)


def _block(block: Raw) -> str:
    kind = text_of(block, "type")
    reader = _BLOCKS.get(kind)
    if reader is not None:
        return reader(block)
    return _joined(_text(block.get(name)) for name in _TEXT_FIELDS)


def _section(block: Raw) -> str:
    fields = (_text(field).replace("\n", " ") for field in objects_of(block, "fields"))
    accessory = object_of(block, "accessory")
    image = _image(accessory) if text_of(accessory, "type") == "image" else ""
    return "\n".join(filter(None, (_text(block.get("text")), *fields, image)))


def _header(block: Raw) -> str:
    text = _text(block.get("text")).replace("\n", " ")
    return f"# {text}" if text else ""


def _context(block: Raw) -> str:
    elements = objects_of(block, "elements")
    return " ".join(
        filter(None, (_image(each) if text_of(each, "type") == "image" else _text(each) for each in elements))
    )


def _image(block: Raw) -> str:
    names = dict.fromkeys(filter(None, (_text(block.get("title")), _literal(text_of(block, "alt_text")))))
    return f"[image: {': '.join(names)}]" if names else ""


def _table(block: Raw) -> str:
    """A table; its first row is the header."""
    listed = block.get("rows")
    rows = [
        [_cell(cell) for cell in islice(row, MAX_CELLS)]
        for row in (islice(listed, MAX_ROWS) if isinstance(listed, list) else ())
        if isinstance(row, list)
    ]
    width = max(map(len, rows), default=0)
    if not width:
        return ""
    lines = [f"| {' | '.join([*row, *[''] * (width - len(row))])} |" for row in rows]
    lines.insert(1, f"|{' --- |' * width}")
    return _joined([_text(block.get("caption")), "\n".join(lines)])


def _cell(cell: object) -> str:
    if not isinstance(cell, Mapping):
        return ""
    if text_of(cell, "type") == "rich_text":
        text = _rich_text(cell)
    else:
        value = cell.get("text", cell.get("value"))
        short = isinstance(value, int | float) and abs(value) < 10**18  # Python refuses to write very long numbers
        text = str(value) if short else _escaped(value) if isinstance(value, str) else ""
    return _PIPE.sub(lambda found: "\\|" if found.group() == "|" else found.group(), " ".join(text.split()))


def _rich_text(block: Raw) -> str:
    parts: list[str] = []
    numbers: dict[int, int] = {}  # how far each level of a numbered list has come
    for element in objects_of(block, "elements"):
        if text_of(element, "type") == "rich_text_list":
            part = _list(element, numbers)
        else:
            numbers.clear()
            part = _paragraph(element)
        parts.append(part.removesuffix("\n"))
    return "\n".join(part for part in parts if part)


def _paragraph(element: Raw) -> str:
    kind = text_of(element, "type")
    if kind == "rich_text_preformatted":
        code = "".join(_plain(each) for each in objects_of(element, "elements"))
        marks = "`" * max(3, 1 + max(map(len, _CODE.findall(code)), default=0))
        return f"{marks}\n{code.removesuffix(chr(10))}\n{marks}"
    text = _inline(element)
    return _quoted(text.removesuffix("\n")) if kind == "rich_text_quote" and text else text


def _list(element: Raw, numbers: dict[int, int]) -> str:
    """The items of one level of a list; Slack sends each change of the level as another list."""
    level, offset = _count(element.get("indent"), 8), _count(element.get("offset"), 10**6)
    ordered = text_of(element, "style") == "ordered"
    for deeper in [each for each in numbers if each > level]:
        del numbers[deeper]
    number = offset or numbers.get(level, 0)
    lines = []
    for item in objects_of(element, "elements"):
        number += 1
        mark = f"{number}." if ordered else "-"
        lines.append(f"{'    ' * level}{mark} {' '.join(_inline(item).split())}")
    if ordered:
        numbers[level] = number
    return "\n".join(lines)


def _inline(element: Raw) -> str:
    return "".join(_styled(each) for each in objects_of(element, "elements"))


def _styled(element: Raw) -> str:
    """One element of a line, with the marks of its style around the text without outer spaces."""
    text = _plain(element)
    style, inside = object_of(element, "style"), text.strip()
    if not inside or text_of(element, "type") not in ("text", "link"):
        return text
    marks = ""
    for name, mark in (("strike", "~~"), ("bold", "**"), ("italic", "*")):
        marks += mark if style.get(name) is True else ""
    if style.get("code") is True and text_of(element, "type") == "text":
        ticks = "`" * (1 + max(map(len, _CODE.findall(inside)), default=0))
        pad = " " if inside[0] == "`" or inside[-1] == "`" else ""
        inside = f"{ticks}{pad}{inside}{pad}{ticks}"
    before, _, after = text.partition(text.strip())
    return f"{before}{marks}{inside}{marks[::-1]}{after}"


def _plain(element: Raw) -> str:
    """One element of rich text without its style."""
    kind, name = text_of(element, "type"), text_of(element, "name")
    if kind == "link":
        return _token(text_of(element, "url"), _escaped(text_of(element, "text")))
    if kind in _REFERENCES:
        field, prefix = _REFERENCES[kind]
        target = text_of(element, field)
        return f"<{prefix}{target}>" if _ID.fullmatch(target) else ""
    if kind == "emoji":
        return f":{_escaped(name)}:" if name else ""
    if kind == "broadcast":
        return f"@{_escaped(text_of(element, 'range'))}"
    if kind == "date":
        return _escaped(text_of(element, "fallback")) or "a date"
    return _escaped(text_of(element, "text") or text_of(element, "value"))


def _text(value: object) -> str:
    """A text object, or a string, of a block."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        return ""
    if text_of(value, "type") == "rich_text":
        return _rich_text(value)
    text = text_of(value, "text")
    return _from_mrkdwn(text) if text_of(value, "type") == "mrkdwn" else _literal(text)


def _from_mrkdwn(text: str) -> str:
    """Slack's mark-up with Markdown's signs for bold and struck text, outside of code."""
    parts, code = [], ""
    for part in _CODE.split(text):
        if part.startswith("`"):
            code = "" if code == part else code or part
        elif not code:
            part = _STRIKE.sub(r"~~\1~~", _BOLD.sub(r"**\1**", part))
        parts.append(part)
    return "".join(parts)


def _literal(text: str) -> str:
    """Plain text, which Slack may have encoded, without mentions or links in it."""
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _escaped(text: str) -> str:
    """Encode text that Slack sends as it was typed."""
    return _literal(text.replace("&", "&amp;"))


def _token(url: str, label: str) -> str:
    """A link in Slack's form."""
    if not url:
        return label
    safe = url.replace("&", "&amp;").replace("<", "%3C").replace(">", "%3E").replace("|", "%7C")
    label = " ".join(label.split())
    return f"<{safe}|{label}>" if label else f"<{safe}>"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _unformatted(blocks: list[Raw]) -> str:
    """The text of a message that is a single rich text without any formatting, '' for all others."""
    if len(blocks) != 1 or text_of(blocks[0], "type") != "rich_text":
        return ""
    sections = objects_of(blocks[0], "elements")
    elements = [each for section in sections for each in objects_of(section, "elements")]
    if any(text_of(each, "type") != "rich_text_section" for each in sections) or any(
        text_of(each, "type") != "text" or object_of(each, "style") for each in elements
    ):
        return ""
    return "".join(text_of(each, "text") for each in elements)


def _repeats(content: str, text: str) -> bool:
    """Whether the words of `text` are in `content`, in the same order."""
    words = iter(_words(content))
    return all(word in words for word in _words(text))


def _normalized(text: str) -> str:
    return " ".join(_words(text)) or "".join(text.split())


def _words(text: str) -> list[str]:
    return _WORDS.findall(decoded(text).casefold())


def _joined(parts: Iterable[str]) -> str:
    """The parts that are not empty, as paragraphs."""
    return "\n\n".join(part for part in parts if part.strip())


def _cut(text: str) -> str:
    """At most MAX_CHARS of a text, without half a mention or entity at the end."""
    if len(text) <= MAX_CHARS:
        return text
    end = safe_cut(text, MAX_CHARS - len(CUT))
    begun = text.rfind("<", end - 200, end)
    if begun > text.rfind(">", end - 200, end):
        end = begun
    return text[:end] + CUT


def _count(value: object, most: int) -> int:
    """A number of the JSON from 0 to `most`."""
    return min(max(value, 0), most) if isinstance(value, int) else 0


_TEXT_FIELDS = ("title", "subtitle", "label", "text", "body", "description", "details", "output")
"""The fields with text of blocks that are not in the table below, such as videos, cards and alerts."""
_REFERENCES = {"user": ("user_id", "@"), "channel": ("channel_id", "#"), "usergroup": ("usergroup_id", "!subteam^")}
_BLOCKS: dict[str, Callable[[Raw], str]] = {
    "rich_text": _rich_text,
    "section": _section,
    "header": _header,
    "context": _context,
    "divider": lambda block: "---",
    "image": _image,
    "table": _table,
    "data_table": _table,
    "markdown": lambda block: text_of(block, "text"),
    "actions": lambda block: "",
    "context_actions": lambda block: "",
}
