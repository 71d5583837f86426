"""Handles what people do with messages: buttons, the menu of models, and the shortcuts 'Answer this' and 'Forget this'.

A button's action or command is in its action_id or value, and a menu's choice carries the model's name, so that both
work after a restart. Unknown elements are acknowledged and otherwise ignored.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.models.blocks import ActionsBlock, ButtonElement, Option, PlainTextObject, StaticSelectElement
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.error_mapping import code_of, mapped_errors
from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.interactions.ephemeral_replies import EphemeralReplies, EphemeralReply, ephemeral_reply
from adapters.slack.json_fields import Raw, object_of, text_of
from adapters.slack.outbound.blocks import Json
from adapters.slack.payloads import Interaction, interaction_of_element, message_of, pressed_element
from bot.platforms.adapter import Core
from bot.types.buttons import Button, parse_button_id
from bot.types.errors import AdapterError
from bot.types.messages import Accepted, Choice, IncomingAction, IncomingCommand, IncomingForget

ANY_ACTION = re.compile("")
MODEL_ACTION = "inhouse_model"
"""The action_id of the menu of models."""
COMMAND_ACTION = "inhouse_command:"
"""The start of the action_id of buttons that execute a slash command; the rest is the id of the command."""
PLACEHOLDER = "Another model for this channel"
MAX_OPTIONS, MAX_LABEL, MAX_VALUE = 100, 75, 75
MAX_COMMAND = 2000
"""The most characters of a button's value."""

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
