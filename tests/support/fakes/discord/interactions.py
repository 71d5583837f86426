"""REST: responses to interactions (commands, buttons, autocompletion), with their deadlines.

The first response must come within 3 seconds (else 10062) and only once (40060); the token is valid for 15 minutes
(50027). The first follow-up after a deferred response replaces the 'thinking' message. Ephemeral messages are in no
channel.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.fakes.discord import checks, payloads
from tests.support.fakes.discord.clock import Changes
from tests.support.fakes.discord.messages import change
from tests.support.fakes.discord.rest import Answer, Ask, Handler
from tests.support.fakes.discord.state import (
    EPHEMERAL,
    LOADING,
    SUPPRESS_EMBEDS,
    SUPPRESS_NOTIFICATIONS,
    Channel,
    Json,
    Message,
    User,
)
from tests.support.fakes.discord.store import DiscordStore

FIRST_RESPONSE = 3.0
TOKEN_LIFE = 900.0
COMMAND, COMPONENT, AUTOCOMPLETE = 2, 3, 4
MESSAGE, DEFERRED_MESSAGE, DEFERRED_UPDATE, UPDATE, CHOICES = 4, 5, 6, 7, 8
FITS = {
    COMMAND: {MESSAGE, DEFERRED_MESSAGE},
    COMPONENT: {MESSAGE, DEFERRED_MESSAGE, DEFERRED_UPDATE, UPDATE},
    AUTOCOMPLETE: {CHOICES},
}


@dataclass(eq=False)
class Interaction:
    """One use of a command or button. `messages` are the bot's answers; `source` is the message with the button."""

    id: str
    token: str
    kind: int
    message_kind: int
    user: User
    channel: Channel
    created_at: float
    changes: Changes
    source: Message | None = None
    response: int | None = None
    original: Message | None = None
    messages: list[Message] = field(default_factory=list)
    choices: list[Json] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """The client shows 'This application did not respond'."""
        return self.response is None

    @property
    def deferred(self) -> bool:
        """The client shows only 'thinking...'."""
        return self.original is not None and bool(self.original.flags & LOADING)

    @property
    def text(self) -> str:
        """The newest answer's text, '' if there is none."""
        return self.messages[-1].content if self.messages else ""

    @property
    def ephemeral(self) -> bool:
        """There are answers, and all of them are ephemeral."""
        return bool(self.messages) and all(message.ephemeral for message in self.messages)

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- reads well
        """Waits until `condition()` is true. Raises AssertionError after `timeout` seconds."""
        await self.changes.until(condition, timeout)

    async def answered(self, timeout: float = 5.0) -> str:  # noqa: ASYNC109 -- reads well
        """Waits for an answer that is not 'thinking...'; its text."""
        await self.changes.until(lambda: self.text and not self.deferred, timeout)
        return self.text


class InteractionRoutes:
    """The routes about interactions, and all interactions so far."""

    def __init__(self, store: DiscordStore) -> None:
        self._store = store
        self.all: dict[str, Interaction] = {}

    def routes(self) -> dict[str, Handler]:
        """Route to handler."""
        one = "/webhooks/{application_id}/{token}/messages/{message_id}"
        return {
            "POST /interactions/{interaction_id}/{token}/callback": self.callback,
            "POST /webhooks/{application_id}/{token}": self.follow_up,
            f"GET {one}": lambda ask: self._shown(self._message(ask)),
            f"PATCH {one}": self.edit,
            f"DELETE {one}": self.delete,
        }

    def callback(self, ask: Ask) -> Answer:
        """The first response."""
        interaction = self.all.get(ask.path["token"])
        if interaction is None or interaction.id != ask.path["interaction_id"]:
            raise checks.unknown("interaction", 10062)
        if interaction.response is not None:
            raise checks.ApiError(400, 40060, "Interaction has already been acknowledged.")
        if self._store.clock.now() > interaction.created_at + FIRST_RESPONSE:
            raise checks.unknown("interaction", 10062)
        kind, data = int(ask.body["type"]), ask.body.get("data") or {}
        if kind not in FITS[interaction.kind]:
            raise checks.invalid("type", "This response type does not fit the interaction.", "BASE_TYPE_CHOICES")
        self._respond(interaction, kind, data, ask)
        interaction.response = kind
        if ask.query.get("with_response", "0").lower() not in ("1", "true"):
            return None
        return self._told(interaction, kind)

    def follow_up(self, ask: Ask) -> Answer:
        """Posts a further answer; the first one after a deferred response replaces 'thinking...'."""
        interaction = self._alive(ask)
        if interaction.deferred and interaction.original is not None:
            self._fill(interaction.original, ask)
            return self._shown(interaction.original)
        return self._shown(self._post(interaction, ask.body, ask))

    def edit(self, ask: Ask) -> Answer:
        """Edits an answer; @original is the first response, or the message whose button was pressed."""
        message = self._message(ask)
        self._fill(message, ask)
        return self._shown(message)

    def delete(self, ask: Ask) -> Answer:
        """Deletes an answer."""
        message = self._message(ask)
        self._store.delete(message)
        self._alive(ask).messages.remove(message)
        return None

    def _respond(self, interaction: Interaction, kind: int, data: Json, ask: Ask) -> None:
        if kind == CHOICES:
            interaction.choices = _checked_choices(data.get("choices"))
        elif kind == MESSAGE:
            checks.not_empty(data.get("content"), data.get("embeds"), ask.files)
            interaction.original = self._post(interaction, data, ask)
        elif kind == DEFERRED_MESSAGE:
            flags = int(data.get("flags") or 0) & EPHEMERAL | LOADING
            interaction.original = self._add(interaction, "", flags)
        else:
            interaction.original = interaction.source
            if kind == UPDATE and interaction.source is not None:
                change(self._store, interaction.source, data, ask.files)

    def _post(self, interaction: Interaction, data: Json, ask: Ask) -> Message:
        checks.message(data, ask.files)
        checks.not_empty(data.get("content"), data.get("embeds"), ask.files)
        flags = int(data.get("flags") or 0) & (EPHEMERAL | SUPPRESS_EMBEDS | SUPPRESS_NOTIFICATIONS)
        return self._add(interaction, data.get("content") or "", flags, data, ask)

    def _add(
        self, interaction: Interaction, content: str, flags: int, data: Json | None = None, ask: Ask | None = None
    ) -> Message:
        told: Json = {"id": interaction.id, "type": interaction.kind, "user": payloads.user(interaction.user)}
        data = data or {}
        message = self._store.add(
            interaction.channel,
            self._store.bot,
            content,
            kind=interaction.message_kind,
            flags=flags,
            allowed=data.get("allowed_mentions"),
            embeds=data.get("embeds") or [],
            components=data.get("components") or [],
            files=ask.files if ask else [],
            reply_to=interaction.source,
            interaction=told | {"authorizing_integration_owners": {}},
        )
        interaction.messages.append(message)
        return message

    def _fill(self, message: Message, ask: Ask) -> None:
        """Edits an answer, which ends 'thinking...'."""
        before = message.flags
        message.flags &= ~LOADING
        try:
            change(self._store, message, ask.body, ask.files)
        except checks.ApiError:
            message.flags = before
            raise

    def _alive(self, ask: Ask) -> Interaction:
        """The interaction of a token: known and responded to (10015), at most 15 minutes old (50027)."""
        interaction = self.all.get(ask.path["token"])
        if interaction is None or interaction.response is None:
            raise checks.unknown("Webhook", 10015)
        if self._store.clock.now() > interaction.created_at + TOKEN_LIFE:
            raise checks.ApiError(401, 50027, "Invalid Webhook Token")
        return interaction

    def _message(self, ask: Ask) -> Message:
        interaction = self._alive(ask)
        wanted = ask.path["message_id"]
        known = [*interaction.messages, *([interaction.original] if interaction.original else [])]
        for message in known:
            if not message.deleted and (
                wanted == message.id or (wanted == "@original" and message is interaction.original)
            ):
                return message
        raise checks.unknown("Message", 10008)

    def _told(self, interaction: Interaction, kind: int) -> Json:
        """The response to a callback with with_response."""
        told: Json = {"id": interaction.id, "type": interaction.kind}
        resource: Json = {"type": kind}
        if (original := interaction.original) is not None:
            told |= {"response_message_id": original.id, "response_message_loading": bool(original.flags & LOADING)}
            told |= {"response_message_ephemeral": original.ephemeral}
            if kind in (MESSAGE, UPDATE):
                resource["message"] = self._shown(original)
        return {"interaction": told, "resource": resource}

    def _shown(self, message: Message) -> Json:
        return payloads.message(message, self._store.bot, True)


def _checked_choices(choices: object) -> list[Json]:
    """Checks choices: at most 25, with names of 1 to 100 characters."""
    if not isinstance(choices, list) or len(choices) > 25:
        raise checks.invalid("data.choices", "Must be 25 or fewer in length.", "BASE_TYPE_MAX_LENGTH")
    for choice in choices:
        checks.length("data.choices.name", choice.get("name"), 1, 100)
        if isinstance(choice.get("value"), str):
            checks.length("data.choices.value", choice["value"], 1, 100)
    return choices
