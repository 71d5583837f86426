"""The command table, which defines slash commands, `!text` commands, console commands and /help; parses their input.

`bot.core.actions` runs the commands.
"""

import difflib
from dataclasses import dataclass
from enum import StrEnum

from bot.types.display_names import as_code
from bot.types.errors import RequestRefused
from bot.types.rights import RIGHTS, Act, Who


class ArgumentType(StrEnum):
    """The type of an argument."""

    TEXT = "text"
    NUMBER = "number"
    INTEGER = "integer"


UNEXPECTED = ""
"""Name of what follows a command that takes no argument."""


@dataclass(frozen=True, slots=True)
class Option:
    """The only argument of a command. `minimum` and `maximum` are inclusive; `choices` lists all valid values."""

    name: str
    description: str
    kind: ArgumentType = ArgumentType.TEXT
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    autocomplete: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command. `act`: what it does, which decides who may use it; a setting without a value is only read."""

    name: str
    description: str
    option: Option | None = None
    act: Act = Act.READ


COMMANDS = (
    Command("ask", "Ask something", Option("prompt", "Your question", required=True), Act.ASK),
    Command(
        "model",
        "Show or change the model",
        Option("name", "Name of the model", autocomplete=True),
        Act.CHANGE_MODEL,
    ),
    Command(
        "temperature",
        "Randomness, 0 to 2. At 0, always the likeliest word",
        Option("value", "From 0 to 2", ArgumentType.NUMBER, minimum=0.0, maximum=2.0),
        Act.TUNE,
    ),
    Command(
        "top_p",
        "Choose only among the likeliest words with this total probability",
        Option("value", "From 0.01 to 1", ArgumentType.NUMBER, minimum=0.01, maximum=1.0),
        Act.TUNE,
    ),
    Command(
        "max_tokens",
        "Maximum length of an answer, in tokens",
        Option("value", "From 1 to 8192", ArgumentType.INTEGER, minimum=1, maximum=8192),
        Act.TUNE,
    ),
    Command(
        "think",
        "How much the model thinks before it answers",
        Option("effort", "off, low or high", choices=("off", "low", "high")),
        Act.TUNE,
    ),
    Command(
        "system",
        "Show, set or clear the instructions for the model",
        Option("prompt", "The new instructions, or 'clear' for the default ones"),
        Act.TUNE,
    ),
    Command("settings", "Show the settings in use here"),
    Command("reset", "Start a new conversation: earlier messages are no longer read", act=Act.RESET),
    Command("undo", "Remove your last question and its answer", act=Act.UNDO),
    Command("regenerate", "Answer the last question again", act=Act.REPEAT),
    Command("continue", "Continue the last answer", act=Act.REPEAT),
    Command("stop", "Stop your answers that are being written or waiting", act=Act.STOP),
    Command("status", "Show model, hardware, memory, speed and queue"),
    Command("why", "Show what the model read for its last answer"),
    Command(
        "forget",
        "Delete your stored messages of this conversation, and the answers to them",
        Option("what", "mine (default), last, or everybody's: all (channel managers)", choices=("mine", "last", "all")),
        Act.FORGET,
    ),
    Command(
        "export",
        "Save the conversation as a file",
        Option(
            "format", "markdown (default), json, or markdown with thoughts", choices=("markdown", "json", "thoughts")
        ),
    ),
    Command("help", "Show the commands"),
)


def find_command(name: str) -> Command | None:
    """Find a command by name; dashes and underscores are equivalent."""
    wanted = name.lower().replace("-", "_")
    return next((command for command in COMMANDS if command.name == wanted), None)


def similar_commands(name: str) -> str:
    """Return a hint with the most similar command names, or ''."""
    close = difflib.get_close_matches(name.lower(), [command.name for command in COMMANDS], n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def act_of(command: Command, value: str | None) -> Act:
    """What a command does with this value."""
    if value is None and command.act in (Act.TUNE, Act.CHANGE_MODEL):
        return Act.READ
    return Act.FORGET_ALL if command.act is Act.FORGET and value == "all" else command.act


def parse_text(text: str, prefix: str = "!") -> tuple[str, dict[str, str]] | None:
    """Parse `!temperature 0.2` as ('temperature', {'value': '0.2'}); None if the text is not one of our commands.

    What follows a command that takes nothing is kept under the name UNEXPECTED, for which `parse_value` refuses it.
    """
    if not text.startswith(prefix):
        return None
    word, *rest = text[len(prefix) :].split(maxsplit=1) or [""]
    command = find_command(word)
    if command is None:
        return None
    return command.name, {command.option.name if command.option else UNEXPECTED: rest[0].strip()} if rest else {}


def parse_message(text: str, prefix: str = "!") -> tuple[str, dict[str, str]] | None:
    """Parse a chat message that is a command and nothing else; None if it is ordinary text, as '!reset my password'.

    `!ask` and `!system` take any text. Where another argument is expected, one word is taken for it, valid or not.
    """
    found = parse_text(text, prefix)
    if found is None or text[len(prefix) :][:1].isspace():
        return None
    name, args = found
    command = find_command(name)
    assert command is not None
    option = command.option
    takes_text = (
        option is not None and option.kind is ArgumentType.TEXT and not option.choices and not option.autocomplete
    )
    extra = UNEXPECTED in args or any(len(value.split(maxsplit=1)) > 1 for value in args.values())
    return found if takes_text or not extra else None


def parse_value(command: Command, args: dict[str, str]) -> str | None:
    """Validate a command's argument and return it as text; None if an optional argument is missing.

    Raises RequestRefused; its message names the range, the choices or the missing argument.
    """
    option = command.option
    if UNEXPECTED in args:
        raise RequestRefused(f"{command.name} takes nothing after its name.")
    raw = args.get(option.name, "").encode("utf-8", "replace").decode().strip() if option else ""
    if option is None or not raw:
        if option and option.required:
            raise RequestRefused(f"{command.name} needs a {option.name}: {option.description.lower()}.")
        return None
    if option.choices:
        if raw.lower() not in option.choices:
            choices = f"{', '.join(option.choices[:-1])} or {option.choices[-1]}"
            raise RequestRefused(f"{command.name} must be {choices}, not {as_code(raw, 40)}.")
        return raw.lower()
    if option.kind is ArgumentType.TEXT:
        return raw
    return _number(command, option, raw)


def _number(command: Command, option: Option, raw: str) -> str:
    assert option.minimum is not None
    assert option.maximum is not None
    range_ = f"between {option.minimum:g} and {option.maximum:g}"
    integer = option.kind is ArgumentType.INTEGER
    try:
        value: float = int(raw) if integer else float(raw.replace(",", "."))
    except ValueError:
        kind = "a whole number" if integer else "a number"
        raise RequestRefused(f"{command.name} must be {kind} {range_}, not {as_code(raw, 40)}.") from None
    if not option.minimum <= value <= option.maximum:  # false for NaN too
        raise RequestRefused(f"{command.name} must be {range_}, not {raw[:40]}.")
    return f"{value:g}" if not integer else str(value)


def help_text(prefix: str = "/") -> str:
    """List the commands as Markdown, one per line, with their roles."""
    lines = []
    for command in COMMANDS:
        who = f" ({role})" if (role := RIGHTS[command.act]) in (Who.CHANNEL, Who.ADMINS) else ""
        lines.append(f"`{usage(command, prefix)}` {command.description}{who}")
    return "\n".join(lines)


def usage(command: Command, prefix: str) -> str:
    """Format a command with its argument, in brackets if optional: '/forget [what]'."""
    if command.option is None:
        return f"{prefix}{command.name}"
    argument = command.option.name if command.option.required else f"[{command.option.name}]"
    return f"{prefix}{command.name} {argument}"
