"""Handles the slash command, which has every command of the table as its first word, and registers all interactions.

A slash command always belongs to a channel, never to a thread. Where answers go into threads, a hint says how to give
the command there.
"""

import asyncio
import time
from dataclasses import replace

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.interactions.buttons import ButtonHandlers, command_button, model_menu
from adapters.slack.interactions.ephemeral_replies import (
    ANSWER_COMING,
    EphemeralReplies,
    EphemeralReply,
    ephemeral_reply,
)
from adapters.slack.interactions.shortcuts import NOT_A_MEMBER, MessageShortcuts, can_post
from adapters.slack.json_fields import Raw, text_of
from adapters.slack.message_text import decoded
from adapters.slack.outbound.posting import Posting
from adapters.slack.payloads import Interaction, interaction_of_command, is_private
from bot.config.settings import Settings
from bot.platforms.adapter import Core
from bot.types.commands import find_command, help_text, parse_message, similar_commands
from bot.types.display_names import as_code
from bot.types.messages import IncomingCommand, Notice, Outcome, Person, Refused

CONVERSATION_COMMANDS = ("regenerate", "continue", "undo", "reset", "why", "forget", "export")
"""Commands about a conversation, which in a thread is another one than in its channel."""
SILENT_COMMANDS = ("reset", "forget", "export")
"""Those that report success even if there was nothing to do."""
FULL_HELP = "help all"
IN_THREADS = (
    "I answer mentions, direct messages, and every message in a thread that I take part in. Slack has no slash "
    "commands in threads: write `!model` or `!undo` there."
)


class InteractionHandlers:
    """Handles slash commands, buttons, menus and shortcuts."""

    def __init__(
        self,
        settings: Settings,
        web: AsyncWebClient,
        core: Core,
        posting: Posting,
        translator: EventTranslator,
        context: ContextFetcher,
    ) -> None:
        self._settings, self._core, self._translator, self._context = settings, core, translator, context
        self._web = web
        self._ephemeral = EphemeralReplies(web, posting, translator)
        self._buttons = ButtonHandlers(core, translator, context, self._ephemeral, self._execute)
        self._shortcuts = MessageShortcuts(core, translator, context, self._ephemeral, web)

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    def register(self, app: AsyncApp) -> None:
        """Register all handlers."""
        app.command(self._settings.slack_command)(self._on_command)
        self._buttons.register(app)
        self._shortcuts.register(app)

    async def close(self) -> None:
        """Wait shortly for running tasks, then cancel them."""
        await self._ephemeral.close()

    async def _on_command(self, ack: AsyncAck, body: Raw) -> None:
        await self._execute(ack, interaction_of_command(body), decoded(text_of(body, "text")).strip())

    async def _execute(self, ack: AsyncAck, interaction: Interaction, typed: str) -> None:
        """Execute what was typed after the slash command."""
        if (short := " ".join(typed.lower().split())) in ("", "help", FULL_HELP):
            return await self._ephemeral.respond(ack, interaction, self._help(interaction, full=short == FULL_HELP))
        command = parse_message(typed, prefix="")
        if command is None:
            return await self._ephemeral.respond(ack, interaction, self._offer_ask(interaction, typed))
        name, args = command
        work = self._command(interaction, name, args)
        return await self._ephemeral.respond(ack, interaction, work, until_stored=name == "ask")

    async def _help(self, interaction: Interaction, *, full: bool) -> EphemeralReply:
        outcome = await self._handle(interaction, await self._actor(interaction), "settings", {})
        if not isinstance(outcome, Notice):
            return ephemeral_reply(outcome) or EphemeralReply(ANSWER_COMING)
        slash, menu = self._settings.slack_command, model_menu(self._core.choices("model", ""))
        if full:
            return EphemeralReply(full_help(slash, outcome.text), blocks=menu)
        more = command_button("All commands and settings", FULL_HELP, f"{interaction.id} help")
        return EphemeralReply(short_help(slash), blocks=(*more, *menu))

    async def _offer_ask(self, interaction: Interaction, typed: str) -> EphemeralReply:
        """The error for what is no command, with a button that asks it as a question."""
        text = unknown_command(typed, self._settings.slack_command)
        return EphemeralReply(text, blocks=command_button("Ask this", f"ask {typed}", interaction.id))

    async def _command(self, interaction: Interaction, name: str, args: dict[str, str]) -> EphemeralReply | None:
        if name == "ask":
            actor, is_member = await asyncio.gather(self._actor(interaction), can_post(self._web, interaction.channel))
            if not is_member:
                return EphemeralReply(NOT_A_MEMBER)
        else:
            actor = await self._actor(interaction)
        outcome = await self._handle(interaction, actor, name, args)
        reply = ephemeral_reply(outcome)
        if reply is None:
            return None
        if name == "model" and not args and isinstance(outcome, Notice):
            return replace(reply, blocks=model_menu(self._core.choices("model", "")))
        if self._may_mean_thread(interaction, name, outcome):
            return replace(reply, hint=f"A thread is a conversation of its own: write `!{name}` in it.")
        return reply

    async def _actor(self, interaction: Interaction) -> Person:
        return await self._context.actor(interaction.user, interaction.channel)

    async def _handle(self, interaction: Interaction, actor: Person, name: str, args: dict[str, str]) -> Outcome:
        key = self._translator.key(interaction.channel)
        return await self._core.handle(IncomingCommand(key, interaction.id, actor, name, args, time.time()))

    def _may_mean_thread(self, interaction: Interaction, name: str, outcome: Outcome) -> bool:
        """Whether the command may have been meant for a thread."""
        threads = not is_private(interaction.channel) and self._settings.reply_in_thread is not False
        return threads and name in CONVERSATION_COMMANDS and (isinstance(outcome, Refused) or name in SILENT_COMMANDS)


def full_help(slash: str, settings: str) -> str:
    """All commands and the settings in use. `slash`: the name of the slash command."""
    return f"{help_text(f'{slash} ')}\n\n{IN_THREADS}\n\nSettings in use here:\n\n{settings}"


def short_help(slash: str) -> str:
    """What most people need to know, in five lines."""
    return "\n".join(
        [
            "- Mention me in a channel and go on in the thread of my answer, or write to me directly.",
            f"- `{slash} ask QUESTION` asks here; everybody in this channel sees the answer.",
            "- The buttons under an answer stop it, continue it, or write another one. "
            f"`{slash} stop` ends your answers in this channel and its threads.",
            "- In a thread, commands begin with `!`: `!model`, `!undo`, `!reset`.",
            f"- `{slash} {FULL_HELP}` shows all commands and the settings in use here.",
        ]
    )


def unknown_command(typed: str, slash: str) -> str:
    """The error for a text that is no command, or more than one; it may be a question."""
    word, *_ = typed.split(maxsplit=1) or [typed]
    if find_command(word):
        error = f"{as_code(f'{slash} {word}', 60)} does not take what follows it."
    else:
        error = f"There is no command {as_code(word, 40)}{similar_commands(word) or '.'}"
    ask = as_code(f"{slash} ask {typed}", 300)
    return f"{error} To ask me this, send {ask}. `{slash} help` shows what else there is."
