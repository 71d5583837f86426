"""Handles slash commands, context menus and buttons, all made from the table of commands.

Discord expects an acknowledgement within three seconds and delivers nothing twice. So what asks for an answer is stored
before it is acknowledged; other commands are acknowledged first. Responses are ephemeral.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import aiohttp
import discord
from discord import app_commands

from adapters.discord.channels import MessageChannel, conversation_key
from adapters.discord.inbound.events import Interaction, actor, sent_at
from adapters.discord.inbound.message_context import ContextFetcher
from adapters.discord.interactions.command_options import Argument, argument_for
from adapters.discord.outbound.posting import MAX_CHARS, NO_MENTIONS, file_of
from bot.platforms.adapter import Core
from bot.platforms.splitter import split
from bot.types.buttons import parse_button_id
from bot.types.commands import COMMANDS, Command
from bot.types.errors import StorageError
from bot.types.messages import (
    Accepted,
    IncomingAction,
    IncomingCommand,
    IncomingForget,
    Notice,
    Outcome,
    Refused,
)

log = logging.getLogger(__name__)

ALREADY_ACKNOWLEDGED = 40060
ANSWER, FORGET = "Answer this", "Forget this"
"""The entries of a message's context menu."""
ASKING = ("ask", "regenerate", "continue")
"""Commands whose answer is a message of its own."""
STORE_S = 2.0
"""The longest wait for storage before an acknowledgement, seconds; the rest of Discord's three is for the network."""
NOT_STORED_YET = "I could not store that yet, and go on trying. If no answer comes, please ask again."
ANSWER_COMING = "It comes as a message here."
ANSWERED = "I have answered that already, or am about to; the button under the answer makes another one."

_FAILURES = (discord.DiscordException, aiohttp.ClientError, OSError)


class InteractionHandlers:
    """Turns interactions into events for the core, and answers them."""

    def __init__(self, core: Core, context: ContextFetcher) -> None:
        self._core, self._context = core, context

    def register(self, tree: app_commands.CommandTree[discord.Client]) -> None:
        """Add all commands and context menus to a tree."""
        for command in COMMANDS:
            tree.add_command(self._slash_command(command))
        tree.add_command(app_commands.ContextMenu(name=ANSWER, callback=self._context_menu(self._answer)))
        tree.add_command(app_commands.ContextMenu(name=FORGET, callback=self._context_menu(self._forget)))

    async def on_button(self, interaction: Interaction) -> None:
        """A button press under a reply."""
        button = parse_button_id(str(dict(interaction.data or {}).get("custom_id", "")))
        channel = interaction.channel
        if button is None or not isinstance(channel, MessageChannel):
            return
        event = IncomingAction(
            conversation_key(channel), str(interaction.id), actor(interaction), button.reply_id, button.kind
        )
        await self._store_first(interaction, self._core.handle(event))

    def _slash_command(self, command: Command) -> app_commands.Command[Any, ..., None]:  # Any: the command's cog
        async def without_value(interaction: discord.Interaction) -> None:
            await self._command(interaction, command, {})

        if command.option is None:
            return app_commands.Command(name=command.name, description=command.description, callback=without_value)
        option = command.option

        async def with_value(interaction: discord.Interaction, value: str | None) -> None:
            await self._command(interaction, command, {option.name: value} if value is not None else {})

        argument: Argument = argument_for(command.name, option, self._core)
        with_value.__annotations__["value"] = argument
        if not option.required:
            with_value.__defaults__ = (None,)
        described = app_commands.describe(value=option.description)(app_commands.rename(value=option.name)(with_value))
        return app_commands.Command(name=command.name, description=command.description, callback=described)

    async def _command(self, interaction: Interaction, command: Command, args: dict[str, str]) -> None:
        channel = interaction.channel
        if not isinstance(channel, MessageChannel):
            return
        event = IncomingCommand(
            conversation_key(channel),
            str(interaction.id),
            actor(interaction),
            command.name,
            args,
            sent_at(interaction.id),
        )
        if command.name in ASKING:
            await self._store_first(interaction, self._core.handle(event))
        elif await _acknowledge(interaction):
            await _respond(interaction, await self._outcome_of(self._core.handle(event)))

    def _context_menu(
        self, act: Callable[[Interaction, discord.Message, MessageChannel], Awaitable[Outcome]]
    ) -> Callable[[Interaction, discord.Message], Coroutine[None, None, None]]:
        async def chosen(interaction: discord.Interaction, message: discord.Message) -> None:
            channel = interaction.channel
            if isinstance(channel, MessageChannel):
                await self._store_first(interaction, act(interaction, message, channel))

        return chosen

    async def _answer(self, interaction: Interaction, message: discord.Message, channel: MessageChannel) -> Outcome:
        """Ask for an answer to a message of anybody."""
        question = self._context.translator.question(message, channel)
        event = await self._context.enrich_question(question, message, channel)
        outcome = await self._core.handle(replace(event, asker=actor(interaction)))
        return Notice(ANSWERED) if isinstance(outcome, Accepted) and not outcome.request_id else outcome

    async def _forget(self, interaction: Interaction, message: discord.Message, channel: MessageChannel) -> Outcome:
        """Ask to forget a message; the core decides whether this user may."""
        key, author = conversation_key(channel), str(message.author.id)
        event = IncomingForget(key, str(interaction.id), actor(interaction), str(message.id), author)
        return await self._core.handle(event)

    async def _store_first(self, interaction: Interaction, handling: Awaitable[Outcome]) -> None:
        """Handle what must not be lost, and acknowledge it once it is stored; after STORE_S, say that it is not yet."""
        handled = asyncio.ensure_future(self._outcome_of(handling))
        try:
            await asyncio.wait({handled}, timeout=STORE_S)
            acknowledged = await _acknowledge(interaction, "" if handled.done() else NOT_STORED_YET)
            outcome = await handled
        finally:
            handled.cancel()
        if acknowledged and not (_is_button(interaction) and isinstance(outcome, Accepted)):
            await _respond(interaction, outcome)

    async def _outcome_of(self, handling: Awaitable[Outcome]) -> Outcome:
        try:
            return await handling
        except StorageError as error:
            return Refused(str(error))


def _is_button(interaction: Interaction) -> bool:
    return interaction.type is discord.InteractionType.component


async def _acknowledge(interaction: Interaction, text: str = "") -> bool:
    """Acknowledge an interaction, a command with a text or as 'thinking'.

    False if it is too late, in which case Discord shows the actor that it failed.
    """
    try:
        if text and not _is_button(interaction):
            await interaction.response.send_message(text, ephemeral=True)
        else:
            await interaction.response.defer(ephemeral=True, thinking=not _is_button(interaction))
    except discord.HTTPException as error:
        if error.code != ALREADY_ACKNOWLEDGED:  # a retry after a lost answer
            log.warning("Interaction %s could not be acknowledged: %s", interaction.id, error.text or error.status)
            return False
    except (aiohttp.ClientError, OSError) as error:
        log.warning("Interaction %s could not be acknowledged: %s", interaction.id, error)
        return False
    return True


async def _respond(interaction: Interaction, outcome: Outcome) -> None:
    """Answer with ephemeral messages."""
    text = ANSWER_COMING if isinstance(outcome, Accepted) else outcome.text
    attachment = outcome.attachment if isinstance(outcome, Notice) else None
    try:
        for part in split(text, MAX_CHARS):
            await interaction.followup.send(
                part.text,
                ephemeral=True,
                allowed_mentions=NO_MENTIONS,
                suppress_embeds=True,
                file=file_of(attachment) if attachment else discord.utils.MISSING,
            )
            attachment = None
    except _FAILURES as error:
        log.warning("Interaction %s could not be answered: %s", interaction.id, error)
