"""The shortcuts of a message: 'Answer this' and 'Forget this'.

In: a message that somebody picked. Out: an IncomingMessage, or MessageDeleted for each conversation that the message
may be in, and words for the eyes of whoever picked it.
"""

import asyncio
from dataclasses import replace

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck

from adapters.slack.asides import Asides, Words, words_of
from adapters.slack.context import ContextFetcher
from adapters.slack.events import EventTranslator
from adapters.slack.interactions import Interaction, of_element
from adapters.slack.me import MeNow
from adapters.slack.payloads import Raw, message_of, object_of, text_of
from adapters.slack.places import AWAY, Places
from bot.adapter import Core
from bot.messages import Accepted, MessageDeleted

ANSWER, FORGET = "answer_this", "forget_this"
"""The callback_ids."""

ANSWERED = "I have answered that already, or am about to; the button under the answer makes another one."
FORGOTTEN = "What I had stored of that message, and of its answer, is deleted."
NOT_YOURS = "Only its author and moderators can have a message forgotten."
NOT_SAID = "That is not a message that somebody wrote."
NO_QUESTION = "I cannot tell which question that answers; use 'Forget this' on the question itself."


class Menus:
    """Acts on messages that are picked."""

    def __init__(
        self,
        me: MeNow,
        core: Core,
        translator: EventTranslator,
        context: ContextFetcher,
        asides: Asides,
        places: Places,
    ) -> None:
        self._me, self._core, self._translator, self._context = me, core, translator, context
        self._asides, self._places = asides, places

    def furnish(self, app: AsyncApp) -> None:
        """Register both shortcuts."""

        async def answer(ack: AsyncAck, body: Raw) -> None:
            interaction = of_element(body)
            await self._asides.serve(
                ack, interaction, self._answer(interaction, object_of(body, "message")), patient=True
            )

        async def forget(ack: AsyncAck, body: Raw) -> None:
            interaction = of_element(body)
            await self._asides.serve(ack, interaction, self._forget(interaction, object_of(body, "message")))

        app.message_shortcut(ANSWER)(answer)
        app.message_shortcut(FORGET)(forget)

    async def _answer(self, interaction: Interaction, raw: Raw) -> Words | None:
        """Whoever asks for an answer is its asker, the history shows who said it."""
        message = message_of(raw, interaction.channel)
        if message is None:
            return Words(NOT_SAID)
        event, asker, here = await asyncio.gather(
            self._context.enrich_question(self._translator.question(message), message),
            self._context.actor(interaction.user, interaction.channel),
            self._places.reachable(interaction.channel),
        )
        if not here:
            return Words(AWAY)
        outcome = await self._core.handle(replace(event, author=replace(asker, name=event.author.name)))
        return Words(ANSWERED) if isinstance(outcome, Accepted) and not outcome.request_id else words_of(outcome)

    async def _forget(self, interaction: Interaction, raw: Raw) -> Words | None:
        """A message, or the one that an answer of ours answers."""
        who = await self._context.actor(interaction.user, interaction.channel)
        channel, thread, ts = interaction.channel, interaction.thread, text_of(raw, "ts")
        author = text_of(raw, "user")
        if self._is_mine(raw):
            ts = await self._question_of(interaction, raw)
            if not ts:
                return Words(NO_QUESTION)
            question = await self._places.message(channel, ts, thread)
            author = text_of(question, "user") if question else ""
        if author != who.id and not who.manages_channel:
            return Words(NOT_YOURS)
        for key in self._translator.possible_keys(channel, ts, "" if thread == ts else thread):
            await self._core.handle(MessageDeleted(key, ts))
        return Words(FORGOTTEN)

    async def _question_of(self, interaction: Interaction, raw: Raw) -> str:
        """The ts of what an answer of ours answers, '' if that is not known."""
        known = raw if object_of(raw, "metadata") else None
        known = known or await self._places.message(interaction.channel, text_of(raw, "ts"), interaction.thread)
        return text_of(object_of(object_of(known or {}, "metadata"), "event_payload"), "question_id")

    def _is_mine(self, raw: Raw) -> bool:
        me = self._me()
        return text_of(raw, "user") == me.user_id or text_of(raw, "bot_id") == me.bot_id
