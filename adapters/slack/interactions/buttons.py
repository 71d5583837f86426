"""Handles buttons and the menu of models.

A button's action or command is in its action_id or value, and a menu's choice carries the model's name, so that both
work after a restart. Unknown elements are acknowledged and otherwise ignored.
"""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.models.blocks import ActionsBlock, ButtonElement, Option, PlainTextObject, StaticSelectElement

from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.interactions.ephemeral_replies import EphemeralReplies, EphemeralReply, ephemeral_reply
from adapters.slack.json_fields import Raw, object_of, text_of
from adapters.slack.outbound.blocks import Json
from adapters.slack.payloads import Interaction, interaction_of_element, pressed_element
from bot.platforms.adapter import Core
from bot.types.buttons import Button, parse_button_id
from bot.types.messages import Accepted, Choice, IncomingAction, IncomingCommand

ANY_ACTION = re.compile("")
MODEL_ACTION = "inhouse_model"
"""The action_id of the menu of models."""
COMMAND_ACTION = "inhouse_command:"
"""The start of the action_id of buttons that execute a slash command; the rest is the id of the command."""
PLACEHOLDER = "Another model for this channel"
MAX_OPTIONS, MAX_LABEL, MAX_VALUE = 100, 75, 75
MAX_COMMAND = 2000
"""The most characters of a button's value."""

Execute = Callable[[AsyncAck, Interaction, str], Awaitable[None]]
"""Acknowledges and executes the text of a slash command."""


class ButtonHandlers:
    """Turns block actions into events for the core; `execute` handles those that are slash commands."""

    def __init__(
        self,
        core: Core,
        translator: EventTranslator,
        context: ContextFetcher,
        ephemeral: EphemeralReplies,
        execute: Execute,
    ) -> None:
        self._core, self._translator, self._context, self._ephemeral = core, translator, context, ephemeral
        self._execute = execute

    def register(self, app: AsyncApp) -> None:
        """Register for all block actions."""
        app.action(ANY_ACTION)(self._on_action)

    async def _on_action(self, ack: AsyncAck, body: Raw) -> None:
        element, interaction = pressed_element(body), interaction_of_element(body)
        # native feedback buttons share one action_id and differ by value
        button = parse_button_id(text_of(element, "value")) or parse_button_id(text_of(element, "action_id"))
        if button is not None:
            return await self._ephemeral.respond(ack, interaction, self._press(interaction, button))
        if model := chosen_model(element):
            return await self._ephemeral.respond(ack, interaction, self._choose(interaction, model))
        if (event_id := text_of(element, "action_id")).startswith(COMMAND_ACTION):
            command = replace(interaction, id=event_id.removeprefix(COMMAND_ACTION), thread="")
            return await self._execute(ack, command, text_of(element, "value"))
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


def model_menu(models: Sequence[Choice]) -> tuple[Json, ...]:
    """A block with the models to choose from; empty if there are none."""
    offered = [each for each in models if 0 < len(each.value) <= MAX_VALUE][:MAX_OPTIONS]
    if not offered:
        return ()
    options = [Option(value=each.value, text=PlainTextObject(text=_cut(each.label), emoji=False)) for each in offered]
    select = StaticSelectElement(action_id=MODEL_ACTION, placeholder=PLACEHOLDER, options=options)
    return (ActionsBlock(elements=[select]).to_dict(),)


def command_button(label: str, typed: str, event_id: str) -> tuple[Json, ...]:
    """A block with a button that executes a slash command once; empty if the text is too long for a button."""
    if len(typed) > MAX_COMMAND:
        return ()
    button = ButtonElement(text=label, action_id=f"{COMMAND_ACTION}{event_id}"[:255], value=typed)
    return (ActionsBlock(elements=[button]).to_dict(),)


def chosen_model(element: Raw) -> str | None:
    """The model chosen in the menu; None for any other element."""
    if text_of(element, "action_id") != MODEL_ACTION:
        return None
    return text_of(object_of(element, "selected_option"), "value")


def _cut(label: str) -> str:
    return label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 1]}…"
