"""Converts Markdown to Slack's older mrkdwn, for places without markdown blocks: ephemeral messages, sections, views.

Only links keep their `<...>` form in the result, so no text can mention or notify a user.
"""

import re

from markdown_it import MarkdownIt
from slackify_markdown import slackify_markdown  # type: ignore[import-untyped]

from bot.platforms.markdown_scanner import RULE, between_breaks, with_task_box
from bot.platforms.splitter import without_bidi_controls

_PARSER = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["code", "html_block", "lheading"])
_PARSER.core.ruler.enableOnly(["block"])

_STAND_INS = {"&": "\ue000", "<": "\ue001", ">": "\ue002", "#!": "\ue003"}
"""Private-use characters, which the converter keeps; it would drop a `#!` line of code."""
_SHOWN = {"\ue000": "&amp;", "\ue001": "&lt;", "\ue002": "&gt;", "\ue003": "#!"}
_QUOTE = re.compile(r"[ \t]*+>[> \t]*+")
_MARK = re.compile(r"<(?P<target>[^<>|]*+)(?:\|(?P<label>[^<>]*+))?>")
_ENCODED = re.compile("%EE%80%8[0-3]")
_IN_ADDRESSES = {"%EE%80%80": "&", "%EE%80%81": "%3C", "%EE%80%82": "%3E", "%EE%80%83": "#!"}
"""Replacements for stand-ins that the converter percent-encoded; Slack does not decode entities in addresses."""
_ADDRESS = re.compile(r"(?:https?://|mailto:)", re.IGNORECASE)
_TICKS = re.compile("`{3,}+")
_LONGEST = 4000
"""Maximum characters to convert, above the limit of a mrkdwn message; a longer text is only escaped."""


def mrkdwn(markdown: str) -> str:
    """Convert Markdown to escaped mrkdwn."""
    markdown = without_bidi_controls(markdown)
    if len(markdown) <= _LONGEST:
        converted = slackify_markdown(_hidden(_drawn(markdown))).rstrip("\n")
    else:
        converted = _hidden(markdown)
    converted = _MARK.sub(_link, converted)
    return re.sub("[\ue000-\ue003]", lambda found: _SHOWN[found.group()], converted)


def _drawn(markdown: str) -> str:
    """Draw what mrkdwn has not: rules, boxes of task lists, line breaks; tables become code."""
    lines = markdown.split("\n")
    text = set(range(len(lines)))
    for token in _PARSER.parse(markdown):
        start, end = token.map or (0, 0)
        if token.type in ("fence", "table_open"):
            text -= set(range(start, end))
        if token.type == "fence":
            lines[start + 1 : end] = [_broken_up(line, token.markup) for line in lines[start + 1 : end]]
        elif token.type == "hr":
            lines[start] = RULE
        elif token.type == "table_open" and not token.level:
            lines[start], lines[end - 1] = f"```\n{lines[start]}", f"{lines[end - 1]}\n```"
    for number in text:
        lines[number] = "\n".join(between_breaks(with_task_box(lines[number])))
    return "\n".join(lines)


def _broken_up(line: str, markup: str) -> str:
    """A line of code without runs of backticks that would end the code, because mrkdwn has one kind of fence."""
    closes = line.strip(" \t>").startswith(markup) and not line.strip(f" \t>{markup[0]}")
    return line if closes else _TICKS.sub(lambda run: "\u200b".join(run.group()), line)


def _hidden(markdown: str) -> str:
    """Replace special characters by stand-ins, except the quote marks at the start of a line."""
    for stand_in in _SHOWN:
        markdown = markdown.replace(stand_in, "")
    lines = []
    for line in markdown.split("\n"):
        quote = _QUOTE.match(line)
        start = quote.end() if quote else 0
        rest = line[start:]
        for character, stand_in in _STAND_INS.items():
            rest = rest.replace(character, stand_in)
        lines.append(line[:start] + rest)
    return "\n".join(lines)


def _link(found: re.Match[str]) -> str:
    """Format a link to an address; other text between < and > would become a mention, so only its label stays."""
    target = _ENCODED.sub(lambda each: _IN_ADDRESSES[each.group()], found["target"])
    label = found["label"] or ""
    if _ADDRESS.match(target):
        return f"<{target}|{label}>" if label else f"<{target}>"
    return label or target
