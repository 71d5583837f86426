"""The arguments of slash commands, from the table of commands: type, range, choices and completion.

Values come back as text, as from every other platform.
"""

import discord
from discord import app_commands

from bot.platforms.adapter import Core
from bot.types.commands import ArgumentType, Option

MAX_CHOICES, MAX_CHOICE_LENGTH = 25, 100

_TYPES = {
    ArgumentType.TEXT: discord.AppCommandOptionType.string,
    ArgumentType.NUMBER: discord.AppCommandOptionType.number,
    ArgumentType.INTEGER: discord.AppCommandOptionType.integer,
}


class Argument(app_commands.Transformer):
    """One argument, which Discord validates."""

    def __init__(self, command: str, option: Option, core: Core) -> None:
        self._command, self._option, self._core = command, option, core

    @property
    def type(self) -> discord.AppCommandOptionType:
        """The type of the value."""
        return _TYPES[self._option.kind]

    @property
    def min_value(self) -> float | None:
        """The least number."""
        return self._bound(self._option.minimum)

    @property
    def max_value(self) -> float | None:
        """The greatest number."""
        return self._bound(self._option.maximum)

    @property
    def choices(self) -> list[app_commands.Choice[str | int | float]] | None:
        """All values, if the option has a closed list."""
        return [app_commands.Choice(name=each, value=each) for each in self._option.choices] or None

    async def transform(self, interaction: discord.Interaction, value: str | float) -> str:
        """The value as text."""
        return value if isinstance(value, str) else f"{value:g}"

    def _bound(self, bound: float | None) -> float | None:
        return int(bound) if bound is not None and self._option.kind is ArgumentType.INTEGER else bound


class CompletedArgument(Argument):
    """An argument with autocompletion."""

    async def autocomplete(  # type: ignore[override]  # discord.py passes the text typed so far
        self, interaction: discord.Interaction, value: str
    ) -> list[app_commands.Choice[str]]:
        """The values that start with the typed text."""
        offered = self._core.choices(self._command, value)
        fitting = [each for each in offered if 0 < len(each.value) <= MAX_CHOICE_LENGTH]
        return [
            app_commands.Choice(name=each.label[:MAX_CHOICE_LENGTH], value=each.value) for each in fitting[:MAX_CHOICES]
        ]


def argument_for(command: str, option: Option, core: Core) -> Argument:
    """The argument that an option of a command becomes."""
    return (CompletedArgument if option.autocomplete else Argument)(command, option, core)
