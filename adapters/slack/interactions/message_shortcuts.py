"""Handles the message shortcuts 'Answer this' and 'Forget this'."""

import asyncio
from dataclasses import replace

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck

from adapters.slack.bot_identity import GetIdentity
from adapters.slack.channels import NOT_A_MEMBER, ChannelReader
from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.interactions.ephemeral_replies import EphemeralReplies, EphemeralReply, ephemeral_reply
from adapters.slack.interactions.payload_parsing import Interaction, from_element
from adapters.slack.payloads import Raw, message_of, object_of, text_of
from bot.platforms.adapter import Core
from bot.types.messages import Accepted, MessageDeleted

ANSWER, FORGET = "answer_this", "forget_this"
"""The callback_ids."""

ANSWERED = "I have answered that already, or am about to; the button under the answer makes another one."
FORGOTTEN = "What I had stored of that message, and of its answer, is deleted."
NOT_YOURS = "Only its author and channel managers can have a message forgotten."
NOT_A_MESSAGE = "Only messages that people or bots wrote can be answered."
NO_QUESTION = "I cannot tell which question that answers; use 'Forget this' on the question itself."


class MessageShortcuts:
    """Turns message shortcuts into events for the core."""

    def __init__(
        self,
        identity: GetIdentity,
        core: Core,
        translator: EventTranslator,
        context: ContextFetcher,
        ephemeral: EphemeralReplies,
        channels: ChannelReader,
    ) -> None:
        self._identity, self._core, self._translator, self._context = identity, core, translator, context
        self._ephemeral, self._channels = ephemeral, channels

    def register(self, app: AsyncApp) -> None:
        """Register both shortcuts."""

        async def answer(ack: AsyncAck, body: Raw) -> None:
            interaction = from_element(body)
            await self._ephemeral.serve(
                ack, interaction, self._answer(interaction, object_of(body, "message")), until_stored=True
            )

        async def forget(ack: AsyncAck, body: Raw) -> None:
            interaction = from_element(body)
            await self._ephemeral.serve(ack, interaction, self._forget(interaction, object_of(body, "message")))

        app.message_shortcut(ANSWER)(answer)
        app.message_shortcut(FORGET)(forget)

    async def _answer(self, interaction: Interaction, raw: Raw) -> EphemeralReply | None:
        """Ask for an answer to a message: the rights are the actor's, the name in the history is the author's."""
        message = message_of(raw, interaction.channel)
        if message is None:
            return EphemeralReply(NOT_A_MESSAGE)
        event, asker, can_post = await asyncio.gather(
            self._context.enrich_question(self._translator.question(message), message),
            self._context.actor(interaction.user, interaction.channel),
            self._channels.can_post(interaction.channel),
        )
        if not can_post:
            return EphemeralReply(NOT_A_MEMBER)
        outcome = await self._core.handle(replace(event, author=replace(asker, name=event.author.name)))
        return (
            EphemeralReply(ANSWERED)
            if isinstance(outcome, Accepted) and not outcome.request_id
            else ephemeral_reply(outcome)
        )

    async def _forget(self, interaction: Interaction, raw: Raw) -> EphemeralReply | None:
        """Forget a message; for an answer of ours, the question that it answers."""
        actor = await self._context.actor(interaction.user, interaction.channel)
        channel, thread, ts = interaction.channel, interaction.thread, text_of(raw, "ts")
        author = text_of(raw, "user")
        if self._is_mine(raw):
            ts = await self._question_of(interaction, raw)
            if not ts:
                return EphemeralReply(NO_QUESTION)
            question = await self._channels.message(channel, ts, thread)
            author = text_of(question, "user") if question else ""
        if author != actor.id and not actor.manages_channel:
            return EphemeralReply(NOT_YOURS)
        for key in self._translator.possible_keys(channel, ts, "" if thread == ts else thread):
            await self._core.handle(MessageDeleted(key, ts))
        return EphemeralReply(FORGOTTEN)

    async def _question_of(self, interaction: Interaction, raw: Raw) -> str:
        """The ts of the question that an answer of ours answers, '' if unknown."""
        known = raw if object_of(raw, "metadata") else None
        known = known or await self._channels.message(interaction.channel, text_of(raw, "ts"), interaction.thread)
        return text_of(object_of(object_of(known or {}, "metadata"), "event_payload"), "question_id")

    def _is_mine(self, raw: Raw) -> bool:
        identity = self._identity()
        return text_of(raw, "user") == identity.user_id or text_of(raw, "bot_id") == identity.bot_id
