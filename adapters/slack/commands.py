"""The slash command: one name for every command of the table; and the desk where all that people use is dealt with.

In: `/inhouse model phi-4`. Out: an IncomingCommand for the core, and its answer for the giver's eyes. A slash command
is given to a channel, never to a thread; where answers stand in threads, the giver is told how it is done there.
"""

import asyncio
import time
from dataclasses import replace

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.asides import COMING, Asides, Words, words_of
from adapters.slack.buttons import Buttons
from adapters.slack.context import ContextFetcher
from adapters.slack.events import EventTranslator
from adapters.slack.help import help_on, menu_of, unknown
from adapters.slack.interactions import Interaction, of_command
from adapters.slack.me import MeNow
from adapters.slack.menus import Menus
from adapters.slack.payloads import Raw, is_private, text_of
from adapters.slack.places import AWAY, Places
from adapters.slack.posting import Posting
from adapters.slack.text import decoded
from bot.adapter import Core
from bot.commands import parse_text
from bot.config import Settings
from bot.messages import IncomingCommand, Notice, Outcome, Person, Refused

OF_CONVERSATIONS = ("stop", "regenerate", "continue", "undo", "reset", "why", "forget", "export")
"""Commands about what was said, which in a thread is another conversation than in its channel."""
DONE_SILENTLY = ("reset", "forget", "export")
"""Those that say they did it, even if there was nothing to do."""


class Desk:
    """Where slash commands, buttons and menus are dealt with."""

    def __init__(
        self,
        settings: Settings,
        web: AsyncWebClient,
        me: MeNow,
        core: Core,
        posting: Posting,
        translator: EventTranslator,
        context: ContextFetcher,
    ) -> None:
        self._settings, self._core, self._translator, self._context = settings, core, translator, context
        self._places = Places(web)
        self._asides = Asides(web, posting, translator)
        self._buttons = Buttons(core, translator, context, self._asides)
        self._menus = Menus(me, core, translator, context, self._asides, self._places)

    def reload(self, settings: Settings) -> None:
        """Go by these from now on."""
        self._settings = settings

    def furnish(self, app: AsyncApp) -> None:
        """Register everything."""
        app.command(self._settings.slack_command)(self._slash)
        self._buttons.furnish(app)
        self._menus.furnish(app)

    async def end(self) -> None:
        """Let what is under way come to its end, but not for long."""
        await self._asides.end()

    async def _slash(self, ack: AsyncAck, body: Raw) -> None:
        interaction, said = of_command(body), decoded(text_of(body, "text")).strip()
        word = said.split(maxsplit=1)[0] if said else "help"
        command = parse_text(said or word, prefix="")
        if command is None:
            words = Words(unknown(word, self._settings.slack_command))
            return await self._asides.serve(ack, interaction, _saying(words))
        name, args = command
        work = self._help(interaction) if name == "help" else self._command(interaction, name, args)
        return await self._asides.serve(ack, interaction, work, patient=name == "ask")

    async def _help(self, interaction: Interaction) -> Words:
        outcome = await self._handle(interaction, await self._actor(interaction), "settings", {})
        if not isinstance(outcome, Notice):
            return words_of(outcome) or Words(COMING)
        return Words(
            help_on(self._settings.slack_command, outcome.text), blocks=menu_of(self._core.choices("model", ""))
        )

    async def _command(self, interaction: Interaction, name: str, args: dict[str, str]) -> Words | None:
        if name == "ask":
            actor, reachable = await asyncio.gather(
                self._actor(interaction), self._places.reachable(interaction.channel)
            )
            if not reachable:
                return Words(AWAY)
        else:
            actor = await self._actor(interaction)
        outcome = await self._handle(interaction, actor, name, args)
        words = words_of(outcome)
        if words is None:
            return None
        if name == "model" and not args and isinstance(outcome, Notice):
            return replace(words, blocks=menu_of(self._core.choices("model", "")))
        if self._elsewhere(interaction, name, outcome):
            return replace(words, hint=f"A thread is a conversation of its own: write `!{name}` in it.")
        return words

    async def _actor(self, interaction: Interaction) -> Person:
        return await self._context.actor(interaction.user, interaction.channel)

    async def _handle(self, interaction: Interaction, actor: Person, name: str, args: dict[str, str]) -> Outcome:
        key = self._translator.key(interaction.channel)
        return await self._core.handle(IncomingCommand(key, interaction.id, actor, name, args, time.time()))

    def _elsewhere(self, interaction: Interaction, name: str, outcome: Outcome) -> bool:
        """Whether something else than the channel may have been meant."""
        threads = not is_private(interaction.channel) and self._settings.reply_in_thread is not False
        return threads and name in OF_CONVERSATIONS and (isinstance(outcome, Refused) or name in DONE_SILENTLY)


async def _saying(words: Words) -> Words:
    return words
