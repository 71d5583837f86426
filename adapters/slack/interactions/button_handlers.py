"""Handles button presses and menu choices under messages.

The action is in the action_id or the value, so that buttons work after a restart. Unknown elements are acknowledged and
otherwise ignored.
"""

import re
import time

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck

from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.interactions.ephemeral_replies import EphemeralReplies, EphemeralReply, ephemeral_reply
from adapters.slack.interactions.help_message import chosen_model
from adapters.slack.interactions.payload_parsing import Interaction, from_element, pressed_element
from adapters.slack.payloads import Raw, text_of
from bot.platforms.adapter import Core
from bot.types.buttons import Button, parse_button_id
from bot.types.messages import Accepted, IncomingAction, IncomingCommand

ANY_ACTION = re.compile("")


class ButtonHandlers:
    """Turns block actions into events for the core."""

    def __init__(
        self, core: Core, translator: EventTranslator, context: ContextFetcher, ephemeral: EphemeralReplies
    ) -> None:
        self._core, self._translator, self._context, self._ephemeral = core, translator, context, ephemeral

    def register(self, app: AsyncApp) -> None:
        """Register for all block actions."""
        app.action(ANY_ACTION)(self._on_action)

    async def _on_action(self, ack: AsyncAck, body: Raw) -> None:
        element, interaction = pressed_element(body), from_element(body)
        # native feedback buttons share one action_id and differ by value
        button = parse_button_id(text_of(element, "value")) or parse_button_id(text_of(element, "action_id"))
        if button is not None:
            return await self._ephemeral.serve(ack, interaction, self._press(interaction, button))
        if model := chosen_model(element):
            return await self._ephemeral.serve(ack, interaction, self._choose(interaction, model))
        await ack()
        return None

    async def _press(self, interaction: Interaction, button: Button) -> EphemeralReply | None:
        actor = await self._context.actor(interaction.user, interaction.channel)
        key = self._translator.key(interaction.channel, interaction.thread)
        outcome = await self._core.handle(IncomingAction(key, interaction.id, actor, button.reply_id, button.kind))
        return None if isinstance(outcome, Accepted) else ephemeral_reply(outcome)  # the answer comes as a message

    async def _choose(self, interaction: Interaction, model: str) -> EphemeralReply | None:
        actor = await self._context.actor(interaction.user, interaction.channel)
        key, args = self._translator.key(interaction.channel, interaction.thread), {"name": model}
        event = IncomingCommand(key, interaction.id, actor, "model", args, time.time())
        return ephemeral_reply(await self._core.handle(event))
