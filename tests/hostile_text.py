"""Lists every function that reads text of people or models, and texts that are expensive for naive scanners.

`FUNCTIONS` maps a name to a call on one string. `TEXTS` maps a label to a factory of a text of about n characters: a
prefix, a piece that is repeated, and a suffix that makes what was matched fail.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any, cast

from adapters.console import markdown as console_markdown
from adapters.console.markdown import block_starts
from adapters.console.text import printable
from adapters.discord import text as discord_text
from adapters.slack import blocks
from adapters.slack import help as slack_help
from adapters.slack import text as slack_text
from adapters.slack.events import command_in
from adapters.slack.mrkdwn import mrkdwn
from bot import address, buttons, commands, dialects, formatting, frames, links, markdown_scanner, textfiles
from bot.adapter import Dialect, Limits
from bot.conversations import storable, text_with_files
from bot.doctor import report
from bot.journal import prefixed
from bot.logs import Redactor
from bot.messages import Attachment, FinishReason
from bot.names import as_code, one_line
from bot.web.troubles import told_apart
from tests.storage_samples import asked

Call = Callable[[str], object]

PEOPLE = frozenset({"https://good.example/a_(b)"})
_REQUEST = asked("question")
_REPLY = frames.Composer(_REQUEST, Limits(2000)).growing("Hello", "")[0]
_DISCORD = Limits(2000, cursor=" ▌", dialect=Dialect.DISCORD)
_SLACK = Limits(3800, dialect=Dialect.SLACK)
_FILED = Limits(3800, dialect=Dialect.SLACK, attach_over=12_000)


def _composer(limits: Limits, **more: Any) -> frames.Composer:  # Any: the fields of Composer
    return frames.Composer(_REQUEST, limits, links=PEOPLE, **more)


def _refused(call: Call, text: str) -> object:
    """What a call gives, or the error that it refuses the text with."""
    try:
        return call(text)
    except ValueError as error:
        return error


def _said(text: str) -> object:
    """A message of Discord's, as far as its text is read."""
    message = SimpleNamespace(content=text, mentions=[], guild=None)
    return discord_text.plain_text(cast("Any", message), ["<@1>", "<@!1>"])


FUNCTIONS: Mapping[str, Call] = {
    "bot.links.urls_in": links.urls_in,
    "bot.links.with_links": lambda text: links.with_links(text, PEOPLE),
    "bot.links.settled": links.settled,
    "bot.markdown_scanner.scan": lambda text: list(markdown_scanner.scan(text)),
    "bot.markdown_scanner.beginning_of_address": markdown_scanner.beginning_of_address,
    "bot.formatting.without_bidi_controls": formatting.without_bidi_controls,
    "bot.formatting.split": lambda text: formatting.split(text, 2000),
    "bot.formatting.between_entities": lambda text: formatting.between_entities(text, len(text) // 2),
    "bot.formatting.open_fence": formatting.open_fence,
    "bot.formatting.fence_after": lambda text: formatting.fence_after("```", text),
    "bot.formatting.closed": formatting.closed,
    **{
        f"bot.dialects.{name} ({dialect})": call
        for dialect in Dialect
        for name, call in (
            ("render", partial(lambda dialect, text: dialects.render(text, dialect, PEOPLE), dialect)),
            ("settled", partial(lambda dialect, text: dialects.settled(text, dialect), dialect)),
        )
    },
    "bot.frames.Composer.growing": lambda text: _composer(_SLACK).growing(text, ""),
    "bot.frames.Composer.growing (as a file)": lambda text: _composer(_FILED, before=text).growing(text, ""),
    "bot.frames.Composer.final": lambda text: _composer(_DISCORD).final(text, FinishReason.ERROR, None, text),
    "bot.textfiles.decoded": lambda text: textfiles.decoded(text.encode()),
    "bot.textfiles.read_as_text": lambda text: textfiles.read_as_text(text, text.encode()),
    "bot.textfiles.refusal": lambda text: textfiles.refusal(text, text, 10**9),
    "bot.conversations.text_with_files": lambda text: text_with_files(text, [Attachment(text, text)]),
    "bot.conversations.storable": storable,
    "bot.commands.parse_text": lambda text: commands.parse_text(f"!{text}"),
    "bot.commands.find": commands.find,
    "bot.commands.nearest": commands.nearest,
    "bot.names.as_code": as_code,
    "bot.names.one_line": one_line,
    "bot.journal.prefixed": lambda text: prefixed(text, 20),
    "bot.logs.Redactor": Redactor(["a-secret"]),
    "bot.web.troubles.told_apart": told_apart,
    "bot.doctor.report.USERINFO": lambda text: report.USERINFO.sub("", text),
    "bot.buttons.parsed": buttons.parsed,
    "bot.address.is_loopback": address.is_loopback,
    "bot.address.parse_host": lambda text: _refused(address.parse_host, text),
    "bot.address.parse_address": lambda text: _refused(address.parse_address, text),
    "adapters.slack.text.plain_text": lambda text: slack_text.plain_text(text, {}, "U1"),
    "adapters.slack.text.users_in": slack_text.users_in,
    "adapters.slack.text.channels_in": slack_text.channels_in,
    "adapters.slack.text.mentions": lambda text: slack_text.mentions(text, "U1"),
    "adapters.slack.text.decoded": slack_text.decoded,
    "adapters.slack.mrkdwn.mrkdwn": mrkdwn,
    "adapters.slack.events.command_in": command_in,
    "adapters.slack.blocks.answer": lambda text: blocks.answer(_REPLY, text[:12_000], feedback=True),
    "adapters.slack.help.unknown_command": lambda text: slack_help.unknown_command(text, "/inhouse"),
    "adapters.discord.text.plain_text": _said,
    "adapters.console.text.printable": printable,
    "adapters.console.markdown.block_starts": block_starts,
    "adapters.console.markdown.settled": console_markdown.settled,
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
    """A table of short rows, one of which has very many columns."""
    return "|a|b|\n|-|-|\n" + "|a" * (length // 3) + "\n" + "|a|\n" * (length // 12)


def _wide(length: int) -> str:
    """A table of short rows, one of which has a very wide cell."""
    return "|a|b|\n|-|-|\n|" + "a" * (length // 2) + "|b|\n" + "|a|b|\n" * (length // 12)


def _runs(length: int) -> str:
    """Rows of backticks of which no two are of the same length."""
    rows, size, total = [], 1, 0
    while total < length:
        rows.append("`" * size)
        total, size = total + size + 1, size + 1
    return " ".join(rows)


def _balanced(length: int) -> str:
    """Parentheses that were opened and closed again, all but two."""
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
"""Factories by label; SHAPES are those that are more than a piece repeated."""
