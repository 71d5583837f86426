"""Every command, defined once: slash commands, `!text` commands, the console and /help are all made from this table.

In: what a person typed. Out: a command with its arguments, or a RequestRefused that says what would be right. What a
command does is in `bot.actions`.
"""

import difflib
from dataclasses import dataclass
from enum import StrEnum

from bot.errors import RequestRefused
from bot.names import as_code


class Who(StrEnum):
    """Who may give a command."""

    EVERYONE = "everyone"
    CHANNEL = "people who can manage the channel"
    ADMIN = "admins"


class Kind(StrEnum):
    """What a value is."""

    TEXT = "text"
    NUMBER = "number"
    INTEGER = "integer"


@dataclass(frozen=True, slots=True)
class Option:
    """The one argument of a command. `minimum` and `maximum` are inclusive; `choices` closes the list of values."""

    name: str
    description: str
    kind: Kind = Kind.TEXT
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    autocomplete: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name, what it does in a few words, its argument if it takes one, and who may give it.

    `who` guards the change that the command makes; without its argument a command only shows, and that is for everyone.
    """

    name: str
    description: str
    option: Option | None = None
    who: Who = Who.EVERYONE


COMMANDS = (
    Command("ask", "Ask something", Option("prompt", "Your question", required=True)),
    Command(
        "model",
        "Show or change the model of this channel",
        Option("name", "The model to use from now on", autocomplete=True),
        Who.ADMIN,
    ),
    Command(
        "temperature",
        "How adventurous the answers are: 0 always takes the likeliest word",
        Option("value", "From 0 to 2", Kind.NUMBER, minimum=0.0, maximum=2.0),
        Who.CHANNEL,
    ),
    Command(
        "top_p",
        "Sample only from the likeliest words that together have this probability",
        Option("value", "From 0.01 to 1", Kind.NUMBER, minimum=0.01, maximum=1.0),
        Who.CHANNEL,
    ),
    Command(
        "max_tokens",
        "The most tokens that an answer may have",
        Option("value", "From 1 to 8192", Kind.INTEGER, minimum=1, maximum=8192),
        Who.CHANNEL,
    ),
    Command(
        "system",
        "Show, set or clear the instructions that the model gets first",
        Option("prompt", "The new instructions; 'clear' goes back to the default"),
        Who.CHANNEL,
    ),
    Command("settings", "Show what is set for this channel"),
    Command("reset", "Start the conversation anew: earlier messages are no longer read"),
    Command("undo", "Take back the last question and its answer"),
    Command("regenerate", "Answer the last question again"),
    Command("continue", "Go on with the last answer"),
    Command("stop", "Stop the answer that is being written"),
    Command("status", "Show the model, the hardware, the memory, the speed and the queue"),
    Command("why", "Show what the model was given to read for its last answer"),
    Command(
        "forget",
        "Delete what is stored of this conversation",
        Option("what", "all (if nothing is said), last or mine", choices=("all", "last", "mine")),
    ),
    Command(
        "export",
        "Get the conversation as a file",
        Option("format", "markdown (if nothing is said) or json", choices=("markdown", "json")),
    ),
    Command("help", "Show the commands"),
)


def find(name: str) -> Command | None:
    """The command of that name, if there is one. Dashes and underscores are the same."""
    wanted = name.lower().replace("-", "_")
    return next((command for command in COMMANDS if command.name == wanted), None)


def nearest(name: str) -> str:
    """A hint that names the commands most like `name`, or ''."""
    close = difflib.get_close_matches(name.lower(), [command.name for command in COMMANDS], n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def parse_text(text: str, prefix: str = "!") -> tuple[str, dict[str, str]] | None:
    """`!temperature 0.2` as ('temperature', {'value': '0.2'}); None if the text is not one of our commands."""
    if not text.startswith(prefix):
        return None
    word, *rest = text[len(prefix) :].split(maxsplit=1) or [""]
    command = find(word)
    if command is None:
        return None
    return command.name, {command.option.name: rest[0].strip()} if command.option and rest else {}


def value_of(command: Command, args: dict[str, str]) -> str | None:
    """The checked argument of a command as text, or None if none was given.

    Raises RequestRefused with the range, the choices or the missing argument in its sentence.
    """
    option = command.option
    raw = args.get(option.name, "").encode("utf-8", "replace").decode().strip() if option else ""
    if option is None or not raw:
        if option and option.required:
            raise RequestRefused(f"{command.name} needs a {option.name}: {option.description.lower()}.")
        return None
    if option.choices:
        if raw.lower() not in option.choices:
            raise RequestRefused(f"{command.name} takes {', '.join(option.choices)}, not {as_code(raw, 40)}.")
        return raw.lower()
    if option.kind is Kind.TEXT:
        return raw
    return _number(command, option, raw)


def _number(command: Command, option: Option, raw: str) -> str:
    assert option.minimum is not None
    assert option.maximum is not None
    range_ = f"from {option.minimum:g} to {option.maximum:g}"
    integer = option.kind is Kind.INTEGER
    try:
        value: float = int(raw) if integer else float(raw.replace(",", "."))
    except ValueError:
        kind = "a whole number" if integer else "a number"
        raise RequestRefused(f"{command.name} takes {kind} {range_}, not {as_code(raw, 40)}.") from None
    if not option.minimum <= value <= option.maximum:  # false for NaN too
        raise RequestRefused(f"{command.name} goes {range_}; {raw[:40]} is outside.")
    return f"{value:g}" if not integer else str(value)


def help_text(prefix: str = "/") -> str:
    """The list of commands as Markdown, one a line."""
    lines = []
    for command in COMMANDS:
        argument = ""
        if command.option:
            argument = f" {command.option.name}" if command.option.required else f" [{command.option.name}]"
        who = "" if command.who is Who.EVERYONE else f" ({command.who})"
        lines.append(f"`{prefix}{command.name}{argument}` {command.description}{who}")
    return "\n".join(lines)
