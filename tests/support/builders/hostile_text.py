"""Lists every function that reads text of people or models, and texts that are expensive for naive scanners.

`FUNCTIONS` maps a name to a call on one string. `TEXTS` maps a label to a factory of a text of about n characters: a
prefix, a piece that is repeated, and a suffix that makes the match fail.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any, cast

import discord

from adapters.console import terminal_markdown as console_markdown
from adapters.console.screen import printable
from adapters.console.terminal_markdown import block_starts
from adapters.discord import message_text as discord_text
from adapters.slack import message_content
from adapters.slack import message_text as slack_text
from adapters.slack.inbound.events import command_in
from adapters.slack.interactions import handlers as slack_handlers
from adapters.slack.outbound import blocks
from adapters.slack.outbound.mrkdwn import mrkdwn
from bot.config import address
from bot.conversations.conversations import storable, text_with_files
from bot.conversations.reply_quotes import with_quotes
from bot.doctor import report
from bot.models import model_spec
from bot.observability.logs import Redactor, prefixed
from bot.platforms import encodings, markdown_scanner, picture_process, splitter, textfiles
from bot.platforms.adapter import Dialect, Limits
from bot.replies import links, markdown, renderer
from bot.storage import StoredTurn
from bot.types import buttons, commands
from bot.types.display_names import as_code, one_line
from bot.types.messages import Attachment, FinishReason, Role
from bot.web.recent_errors import split_message
from tests.support.builders.storage_rows import asked

Call = Callable[[str], object]

URLS = frozenset({"https://good.example/a_(b)"})
PEOPLE = links.KnownLinks(URLS)
_REQUEST = asked("question")
_REPLY = renderer.Renderer(_REQUEST, Limits(2000)).render_partial("Hello", "")[0]
_DISCORD = Limits(2000, cursor=" ▌", dialect=Dialect.DISCORD)
_SLACK = Limits(3800, dialect=Dialect.SLACK)
_FILED = Limits(3800, dialect=Dialect.SLACK, attach_over=12_000)


def _composer(limits: Limits, **more: Any) -> renderer.Renderer:  # Any: the fields of Composer
    return renderer.Renderer(_REQUEST, limits, links=URLS, **more)


def _refused(call: Call, text: str) -> object:
    """The result of a call, or the ValueError that it raises."""
    try:
        return call(text)
    except ValueError as error:
        return error


def _said(text: str) -> object:
    """Reads the text of a Discord message, and what its author typed."""
    embed = discord.Embed(title=text, description=text).add_field(name=text, value=text)
    snapshot = SimpleNamespace(content=text, embeds=[embed], components=[], stickers=[])
    message = SimpleNamespace(
        content=text,
        mentions=[],
        guild=None,
        author=SimpleNamespace(bot=True),
        message_snapshots=[snapshot],
        poll=None,
        **{"embeds": [embed], "components": [], "stickers": []},
    )
    said, mentions = cast("Any", message), ["<@1>", "<@!1>"]
    return discord_text.visible_text(said, mentions), discord_text.own_text(said, mentions)


def _quoted(text: str) -> object:
    """Quotes a message in a reply to it, with another one between."""
    said = StoredTurn(1, Role.USER, "1", text, text, "1", 1.0, None)
    return with_quotes([said, replace(said, message_id="2"), replace(said, message_id="3", reply_to="1")], {"1": said})


def _rich_text(text: str) -> dict[str, Any]:  # Any: JSON
    """A Slack message with a text as code, in a list and in a table."""
    element = {"type": "text", "text": text}
    code = {"type": "rich_text_preformatted", "elements": [element]}
    styled = {"type": "rich_text_section", "elements": [{**element, "style": {"code": True, "bold": True}}]}
    items = {"type": "rich_text_list", "elements": [styled]}
    table = {"type": "table", "rows": [[{"type": "raw_text", "text": text}]]}
    return {"blocks": [{"type": "rich_text", "elements": [code, styled, items]}, table]}


def _picture(text: str) -> None:
    with suppress(picture_process.PictureRefused):
        picture_process.reencoded(
            text.encode("utf-8", "replace"), picture_process.PictureLimits(5, 512, 10**6, 100, 100, 10**5)
        )


FUNCTIONS: Mapping[str, Call] = {
    "bot.replies.links.urls_in": links.urls_in,
    "bot.replies.links.with_links": lambda text: links.with_links(text, PEOPLE),
    "bot.replies.links.stable_prefix": links.stable_prefix,
    "bot.replies.links.KnownLinks": lambda text: [
        f"https://{text}" in links.KnownLinks({text}, {text}),
        text in PEOPLE,
    ],
    "bot.platforms.markdown_scanner.Emphasis": lambda text: markdown_scanner.Emphasis().read(
        text, list(markdown_scanner.scan(text))
    ),
    "bot.platforms.markdown_scanner.between_breaks": markdown_scanner.between_breaks,
    "bot.platforms.markdown_scanner.with_task_box": markdown_scanner.with_task_box,
    "bot.platforms.markdown_scanner.scan": lambda text: list(markdown_scanner.scan(text)),
    "bot.platforms.markdown_scanner.beginning_of_address": markdown_scanner.beginning_of_address,
    "bot.platforms.splitter.without_bidi_controls": splitter.without_bidi_controls,
    "bot.platforms.splitter.split": lambda text: splitter.split(text, 2000),
    "bot.platforms.splitter.safe_cut": lambda text: splitter.safe_cut(text, len(text) // 2),
    "bot.platforms.splitter.beginning": lambda text: splitter.beginning(text, len(text) - 1),
    "bot.platforms.splitter.open_fence": splitter.open_fence,
    "bot.platforms.splitter.closed": splitter.closed,
    "bot.replies.markdown.fence_to_continue": markdown.fence_to_continue,
    **{
        f"bot.replies.markdown.{name} ({dialect})": call
        for dialect in Dialect
        for name, call in (
            ("render", partial(lambda dialect, text: markdown.render(text, dialect, PEOPLE), dialect)),
            ("stable_prefix", partial(lambda dialect, text: markdown.stable_prefix(text, dialect), dialect)),
        )
    },
    "bot.replies.renderer.Renderer.render_partial": lambda text: _composer(_SLACK).render_partial(text, ""),
    "bot.replies.renderer.Renderer.render_partial (as a file)": lambda text: _composer(
        _FILED, before=text
    ).render_partial(text, ""),
    "bot.replies.renderer.Renderer.render_final": lambda text: _composer(_DISCORD).render_final(
        text, FinishReason.ERROR, None, text
    ),
    "bot.platforms.textfiles.decoded": lambda text: textfiles.decoded(text.encode()),
    "bot.models.model_spec.is_repository": model_spec.is_repository,
    "bot.platforms.picture_process.reencoded": _picture,
    "bot.platforms.encodings.is_of_one_script": encodings.is_of_one_script,
    "bot.platforms.encodings.detect": lambda text: encodings.detect(
        bytes(byte | 0x80 if byte > 32 else byte for byte in text.encode())
    ),
    "bot.platforms.textfiles.read_as_text": lambda text: textfiles.read_as_text(text, text.encode()),
    "bot.platforms.textfiles.refusal": lambda text: textfiles.refusal(text, 10**9),
    "bot.conversations.conversations.text_with_files": lambda text: text_with_files(text, [Attachment(text, text)]),
    "bot.conversations.conversations.storable": storable,
    "bot.conversations.reply_quotes.with_quotes": _quoted,
    "bot.types.commands.parse_text": lambda text: commands.parse_text(f"!{text}"),
    "bot.types.commands.parse_message": lambda text: commands.parse_message(f"!model {text}"),
    "bot.types.commands.find_command": commands.find_command,
    "bot.types.commands.similar_commands": commands.similar_commands,
    "bot.types.display_names.as_code": as_code,
    "bot.types.display_names.one_line": one_line,
    "bot.observability.logs.prefixed": lambda text: prefixed(text, 20),
    "bot.observability.logs.Redactor": Redactor(["a-secret"]),
    "bot.web.recent_errors.split_message": split_message,
    "bot.doctor.report.USERINFO": lambda text: report.USERINFO.sub("", text),
    "bot.types.buttons.parse_button_id": buttons.parse_button_id,
    "bot.config.address.is_loopback": address.is_loopback,
    "bot.config.address.parse_host": lambda text: _refused(address.parse_host, text),
    "bot.config.address.parse_address": lambda text: _refused(address.parse_address, text),
    "adapters.slack.message_text.plain_text": lambda text: slack_text.plain_text(text, {}, "U1"),
    "adapters.slack.message_text.without_last_mention": lambda text: slack_text.without_last_mention(text, "U1"),
    "adapters.slack.message_text.users_in": slack_text.users_in,
    "adapters.slack.message_text.channels_in": slack_text.channels_in,
    "adapters.slack.message_text.mentions": lambda text: slack_text.mentions(text, "U1"),
    "adapters.slack.message_text.decoded": slack_text.decoded,
    "adapters.slack.message_content.shown_text": lambda text: message_content.shown_text(
        {"text": text, "bot_id": "B1", "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": text}}]}
    ),
    "adapters.slack.message_content.shown_text (rich text)": lambda text: message_content.shown_text(_rich_text(text)),
    "adapters.slack.message_content.attached_text": lambda text: message_content.attached_text(
        {"attachments": [{"text": text, "title": text, "fallback": text, "is_share": True}]}, text
    ),
    "adapters.slack.outbound.mrkdwn.mrkdwn": mrkdwn,
    "adapters.slack.inbound.events.command_in": command_in,
    "adapters.slack.outbound.blocks.answer": lambda text: blocks.answer(_REPLY, text[:12_000], feedback=True),
    "adapters.slack.interactions.handlers.unknown_command": lambda text: slack_handlers.unknown_command(
        text, "/inhouse"
    ),
    "adapters.discord.message_text.visible_text": _said,
    "adapters.console.screen.printable": printable,
    "adapters.console.terminal_markdown.block_starts": block_starts,
    "adapters.console.terminal_markdown.stable_prefix": console_markdown.stable_prefix,
}

PIECES = (
    *' \t\na_\\`~[()!<>&|-:"*@.',
    *("](", "` ", "`` ", "~ ", "[a](", "[x](a(", "(a", "a)", "[]", "![", "](https://x(", "https://a)", "<@", "<@U1>"),
    *(
        "<@1> ",
        "<https://x|",
        "- ",
        "> ",
        "1. ",
        "| a ",
        "|\n",
        "|-",
        ":-: ",
        "\\`",
        "&lt;",
        "a.",
        "a@",
        "a@b.",
        "http",
    ),
    *("://", "a://", "www.", "discord.gg/", "*a _b ", "**a", "~~a", "```\n", "~~~ x\n", f"```{'x' * 90}\n", "\n \n"),
    *(".)", "。)", "[a]: b\n", "&#", "<a ", "<!--", "]\n[", "\u202e", "xoxb-", "a-", "://a:b", "日本", "\x1b[0m"),
)
ENDS = ("", "`!\n", "))", "!")


def _ragged(length: int) -> str:
    """A table of short rows with one row of very many columns."""
    return "|a|b|\n|-|-|\n" + "|a" * (length // 3) + "\n" + "|a|\n" * (length // 12)


def _wide(length: int) -> str:
    """A table of short rows with one very wide cell."""
    return "|a|b|\n|-|-|\n|" + "a" * (length // 2) + "|b|\n" + "|a|b|\n" * (length // 12)


def _runs(length: int) -> str:
    """Runs of backticks, each of a different length."""
    rows, size, total = [], 1, 0
    while total < length:
        rows.append("`" * size)
        total, size = total + size + 1, size + 1
    return " ".join(rows)


def _balanced(length: int) -> str:
    """Nested parentheses, all closed but two."""
    return "[x](" + "(a" * (length // 3) + ")" * (length // 3 - 1) + " and more"


def _repeated(prefix: str, piece: str, suffix: str, length: int) -> str:
    return f"{prefix}{piece * max(1, (length - len(prefix) - len(suffix)) // len(piece))}{suffix}"


SHAPES: Mapping[str, Callable[[int], str]] = {
    "a ragged table": _ragged,
    "a wide cell": _wide,
    "rows of backticks": _runs,
    "balanced parentheses": _balanced,
}
TEXTS: Mapping[str, Callable[[int], str]] = {
    **{f"{piece!r:.24} … {end!r}": partial(_repeated, "", piece, end) for piece, end in product(PIECES, ENDS[:2])},
    **{
        f"{prefix!r} {piece!r:.20} …": partial(_repeated, prefix, piece, "")
        for prefix, piece in (
            ("[x](", "(a"),
            ("[x](", "()"),
            ("`", "(a"),
            ("|a|\n", "|-"),
            ("|a|\n", "-"),
            ("```", "a"),
            ("```\n", "`` "),
            ("```" + "x" * 1000 + "\n", "```x\n"),
            ("> ", "> "),
            ("~~~", " ~"),
            ("https://x", ")"),
            ("https://x/", "("),
            ('[a](https://x "', "a"),
            ("[a](https://x ", " "),
            ("](", " "),
            ("<@U1", "|a"),
            ("|a|b|\n|-|-|\n", "|"),
        )
    },
    **SHAPES,
}
"""Text factories by label; SHAPES are those that are not one repeated piece."""
