"""What people do that goes to the app at once: buttons, menus, slash commands, shortcuts, views, the assistant view.

Each gesture sends an interaction and waits for its ack, up to Slack's three seconds; `failed` says that there was none.
"""

from collections.abc import Awaitable, Callable, Mapping

from tests.fakes.slack import payloads
from tests.fakes.slack.interactions import Desk, Interaction
from tests.fakes.slack.log import Ack
from tests.fakes.slack.state import IM, Channel, Json, Message, User
from tests.fakes.slack.views import View
from tests.fakes.slack.world import World

Asking = Callable[[str, Json, str], Awaitable[Ack | None]]


class Gestures:
    """Somebody's hand on the mouse. `ask` is Socket Mode's, set by the server."""

    ask: Asking

    def __init__(self, user: User, world: World, desk: Desk) -> None:
        self.user = user
        self.id, self.name, self.mention = user.id, user.name, user.mention
        self._world, self._desk = world, desk

    async def clicks(self, message: Message, button: str) -> Interaction:
        """Press a button, named by its label, action_id or value; of a feedback block, by one of its two labels."""
        assert not message.deleted, "the message is gone"
        assert message.to in (None, self.user), "somebody else's ephemeral message"
        for element in message.buttons:
            action = _pressed(element, button)
            if action is not None:
                return await self._act(message, action)
        raise AssertionError(f"no button {button!r}; there are {message.labels}")

    async def chooses(self, message: Message, action_id: str, value: str) -> Interaction:
        """Choose an option of a menu, by its value or text."""
        element = next((each for each in message.buttons if each.get("action_id") == action_id), None)
        assert element is not None, f"no menu {action_id!r}; there are {[e.get('action_id') for e in message.buttons]}"
        return await self._act(message, _selected(element, value))

    async def slash(
        self, command: str, text: str = "", *, channel: Channel, thread: "Message | None" = None
    ) -> Interaction:
        """Give a slash command; Slack's client refuses it in threads."""
        assert thread is None, f"{command} is not supported in threads. Sorry!"
        assert command in self._desk.commands and "commands" in self._world.scopes, f"{command} is not a valid command"
        interaction = self._desk.new(self.user, channel)
        payload = {
            "token": "a-verification-token",
            "team_id": payloads.TEAM_ID,
            "team_domain": "workshop",
            "channel_id": channel.id,
            "channel_name": "directmessage" if channel.kind == IM else channel.name,
            "user_id": self.id,
            "user_name": self.name,
            "command": command,
            "text": text,
            "api_app_id": payloads.APP_ID,
            "is_enterprise_install": "false",
            "response_url": self._desk.url(interaction),
            "trigger_id": interaction.trigger_id,
        }
        interaction.ack = await self.ask("slash_commands", payload, command)
        self._desk.acknowledged(interaction)
        return interaction

    async def uses(self, callback_id: str, *, on: Message) -> Interaction:
        """Choose a message shortcut, by its callback_id."""
        assert not on.deleted, "the message is gone"
        interaction = self._desk.new(self.user, on.channel, on)
        payload = self._body("message_action", interaction) | {
            "callback_id": callback_id,
            "action_ts": self._world.clock.new_ts(),
            "message_ts": on.ts,
            "message": payloads.message(on, self._world.base_url),
        }
        return await self._send(interaction, payload)

    async def submits(self, view: View, values: Mapping[str, Json]) -> Interaction:
        """Submit a view; `values` are action_id -> what the element's state holds ({"value": ...} or an option)."""
        assert not view.closed and view.user is self.user, "the view is not there"
        interaction = self._desk.new(self.user, None)
        payload = self._body("view_submission", interaction) | {"view": view.state(values), "response_urls": []}
        await self._send(interaction, payload)
        view.answered(interaction.ack)
        return interaction

    async def opens_assistant(self, context: Channel | None = None) -> Message:
        """Open a new thread of the assistant view; its first message, for `says(dm, ..., thread=...)`."""
        world, dm = self._world, self._world.dm(self.user)
        extra: Json = {"assistant_app_thread": {"title": "New Assistant Thread", "title_blocks": [], "artifacts": []}}
        first = world.add(
            dm, world.bot, "New Assistant Thread", subtype="assistant_app_thread", extra=extra, quiet=True
        )
        first.thread_ts = first.ts
        self._tell_assistant("assistant_thread_started", first, context)
        return first

    async def looks_at(self, thread: Message, context: Channel) -> None:
        """Go to another channel with the assistant view open."""
        self._tell_assistant("assistant_thread_context_changed", thread, context)

    async def opens_home(self, tab: str = "home") -> None:
        """Open the app's home (`tab`: home or messages)."""
        dm = self._world.dm(self.user)
        now = self._world.clock.new_ts()
        self._world.tell({"type": "app_home_opened", "user": self.id, "channel": dm.id, "tab": tab, "event_ts": now})

    def _tell_assistant(self, event: str, first: Message, context: Channel | None) -> None:
        where = {"channel_id": context.id, "team_id": payloads.TEAM_ID, "enterprise_id": None} if context else {}
        thread = {"user_id": self.id, "context": where, "channel_id": first.channel.id, "thread_ts": first.ts}
        self._world.tell({"type": event, "assistant_thread": thread, "event_ts": self._world.clock.new_ts()})

    async def _act(self, message: Message, action: Json) -> Interaction:
        """Send a block action of a message."""
        world = self._world
        interaction = self._desk.new(self.user, message.channel, message)
        container: Json = {"type": "message", "message_ts": message.ts, "channel_id": message.channel.id}
        container["is_ephemeral"] = message.ephemeral
        if message.thread_ts:
            container["thread_ts"] = message.thread_ts
        action = {"action_ts": world.clock.new_ts(), **action}
        payload = self._body("block_actions", interaction) | {"container": container, "actions": [action]}
        payload["state"] = {"values": {}}
        if not message.ephemeral:
            payload["message"] = payloads.message(message, world.base_url)
        return await self._send(interaction, payload)

    def _body(self, kind: str, interaction: Interaction) -> Json:
        body: Json = {
            "type": kind,
            "user": {"id": self.id, "username": self.name, "name": self.name, "team_id": payloads.TEAM_ID},
            "api_app_id": payloads.APP_ID,
            "token": "a-verification-token",
            "trigger_id": interaction.trigger_id,
            "team": {"id": payloads.TEAM_ID, "domain": "workshop"},
            "enterprise": None,
            "is_enterprise_install": False,
        }
        channel = interaction.channel
        if channel is not None:
            name = "directmessage" if channel.kind == IM else channel.name
            body |= {"channel": {"id": channel.id, "name": name}, "response_url": self._desk.url(interaction)}
        return body

    async def _send(self, interaction: Interaction, payload: Json) -> Interaction:
        interaction.ack = await self.ask("interactive", payload, str(payload["type"]))
        return interaction


def _pressed(element: Json, wanted: str) -> Json | None:
    """The action of pressing an element, if it is the one that is wanted."""
    told = {"type": element["type"], "action_id": element.get("action_id", ""), "block_id": element.get("block_id", "")}
    if element["type"] == "feedback_buttons":
        for side in ("positive_button", "negative_button"):
            button = element.get(side) or {}
            if wanted in (button.get("text", {}).get("text"), button.get("value")):
                return told | {"value": button.get("value", ""), "text": button.get("text")}
        return None
    label = (element.get("text") or {}).get("text")
    if element["type"] not in ("button", "icon_button") or wanted not in (
        label,
        element.get("action_id"),
        element.get("value"),
    ):
        return None
    return told | {"text": element.get("text")} | ({"value": element["value"]} if "value" in element else {})


def _selected(element: Json, wanted: str) -> Json:
    """The action of choosing an option."""
    options = [*(element.get("options") or [])]
    for group in element.get("option_groups") or []:
        options += group["options"]
    option = next((each for each in options if wanted in (each.get("value"), each["text"]["text"])), None)
    assert option is not None, f"no option {wanted!r}; there are {[each.get('value') for each in options]}"
    told = {"type": element["type"], "action_id": element["action_id"], "block_id": element.get("block_id", "")}
    return told | {"selected_option": option}
