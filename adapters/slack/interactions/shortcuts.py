"""Handles the message shortcuts 'Answer this' and 'Forget this'."""

import asyncio
from dataclasses import replace

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.error_mapping import code_of, mapped_errors
from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.interactions.ephemeral_replies import EphemeralReplies, EphemeralReply, ephemeral_reply
from adapters.slack.json_fields import Raw, object_of, text_of
from adapters.slack.payloads import Interaction, interaction_of_element, message_of
from bot.platforms.adapter import Core
from bot.types.errors import AdapterError
from bot.types.messages import Accepted, IncomingForget

ANSWER, FORGET = "answer_this", "forget_this"
"""The callback_ids."""

LOOKUP_TIMEOUT_S = 1.0
"""An acknowledgement waits for the lookup."""
NOT_A_MEMBER_CODES = ("not_in_channel", "channel_not_found")
NOT_A_MEMBER = (
    "I am not a member of this conversation and cannot answer here. Add me first, in a channel with `/invite`."
)
ANSWERED = "I have answered that already, or am about to; the button under the answer makes another one."
NOT_A_MESSAGE = "Only messages that people or bots wrote can be answered."


class MessageShortcuts:
    """Turns message shortcuts into events for the core."""

    def __init__(
        self,
        core: Core,
        translator: EventTranslator,
        context: ContextFetcher,
        ephemeral: EphemeralReplies,
        web: AsyncWebClient,
    ) -> None:
        self._core, self._translator, self._context = core, translator, context
        self._ephemeral, self._web = ephemeral, web

    def register(self, app: AsyncApp) -> None:
        """Register both shortcuts."""

        async def answer(ack: AsyncAck, body: Raw) -> None:
            interaction = interaction_of_element(body)
            await self._ephemeral.respond(
                ack, interaction, self._answer(interaction, object_of(body, "message")), until_stored=True
            )

        async def forget(ack: AsyncAck, body: Raw) -> None:
            interaction = interaction_of_element(body)
            await self._ephemeral.respond(ack, interaction, self._forget(interaction, object_of(body, "message")))

        app.message_shortcut(ANSWER)(answer)
        app.message_shortcut(FORGET)(forget)

    async def _answer(self, interaction: Interaction, raw: Raw) -> EphemeralReply | None:
        """Ask for an answer to a message of anybody."""
        message = message_of(raw, interaction.channel)
        if message is None:
            return EphemeralReply(NOT_A_MESSAGE)
        event, asker, is_member = await asyncio.gather(
            self._context.enrich_question(self._translator.question(message), message),
            self._context.actor(interaction.user, interaction.channel),
            can_post(self._web, interaction.channel),
        )
        if not is_member:
            return EphemeralReply(NOT_A_MEMBER)
        outcome = await self._core.handle(replace(event, asker=asker))
        return (
            EphemeralReply(ANSWERED)
            if isinstance(outcome, Accepted) and not outcome.request_id
            else ephemeral_reply(outcome)
        )

    async def _forget(self, interaction: Interaction, raw: Raw) -> EphemeralReply | None:
        """Ask to forget a message; the core decides whether this user may."""
        actor = await self._context.actor(interaction.user, interaction.channel)
        key = self._translator.key(interaction.channel, interaction.thread)
        event = IncomingForget(key, interaction.id, actor, text_of(raw, "ts"), text_of(raw, "user"))
        return ephemeral_reply(await self._core.handle(event))


async def can_post(web: AsyncWebClient, channel: str) -> bool:
    """Whether the bot is a member of a channel; True if that is not known within LOOKUP_TIMEOUT_S."""
    try:
        async with mapped_errors(), asyncio.timeout(LOOKUP_TIMEOUT_S):
            await web.conversations_history(channel=channel, limit=1)
    except AdapterError as error:
        return code_of(error.__cause__ or error) not in NOT_A_MEMBER_CODES
    return True
