"""The users of the fake Slack, controlled by tests: they write, edit, delete, use commands and press buttons.

Every method acts like a user's client, raises AssertionError for what the client would not allow, and returns what the
user sees.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from aiohttp import web

from tests.support.fakes.slack import checks, payloads, reading
from tests.support.fakes.slack.asks import SlackError
from tests.support.fakes.slack.extras import ExtraMethods
from tests.support.fakes.slack.sockets import Envelope, SocketMode
from tests.support.fakes.slack.state import IM, Channel, File, Json, Message, User, Version
from tests.support.fakes.slack.store import SlackStore

USES, LIFE_S = 5, 1800.0


@dataclass(eq=False)
class Interaction:
    """A command, button press or shortcut. `messages` came through its response_url."""

    channel: Channel
    user: User
    thread_ts: str
    source: Message | None
    until: float
    envelope: Envelope | None = None
    uses: int = 0
    messages: list[Message] = field(default_factory=list)

    @property
    def acked(self) -> bool:
        """Whether the app acknowledged it in time."""
        return self.envelope is not None and self.envelope.acked.is_set()


class Interactions:
    """Creates interactions and serves their response_urls."""

    def __init__(self, store: SlackStore, sockets: SocketMode, extras: ExtraMethods) -> None:
        self.store, self._sockets, self._extras = store, sockets, extras
        self.open: dict[str, Interaction] = {}

    def begin(
        self, kind: str, what: str, payload: Json, channel: Channel, user: User, source: Message | None = None
    ) -> Interaction:
        """Sends an interaction's envelope."""
        name, trigger = secrets.token_hex(8), f"{secrets.token_hex(6)}.{secrets.token_hex(6)}"
        parent = source.thread_ts if source is not None else ""
        made = Interaction(channel, user, parent, source, self.store.clock.now() + LIFE_S)
        self.open[name] = made
        self._extras.triggers[trigger] = self.store.clock.now()
        payload |= {"trigger_id": trigger, "response_url": f"{self.store.base_url}respond/{name}"}
        made.envelope = self._sockets.send(trigger, kind, what, payload, again=False)
        return made

    async def respond(self, request: web.Request) -> web.Response:
        """Serves a response_url: five uses in half an hour."""
        made = self.open.get(request.match_info["name"])
        body: Json = await request.json()
        if made is None or made.uses >= USES or made.until < self.store.clock.now():
            return web.json_response({"ok": False, "error": "expired_url"}, status=404)
        made.uses += 1
        blocks, text = body.get("blocks") or [], str(body.get("text") or "")
        try:
            if blocks:
                checks.blocks(blocks)
            if not text and not blocks:
                raise SlackError("no_text")
        except SlackError as error:
            return web.json_response(error.body, status=400)
        everybody = body.get("response_type") == "in_channel"
        if body.get("replace_original") and made.source is not None:
            found = reading.mentions(text, blocks)
            self.store.change(made.source, Version(text, self.store.clock.now(), blocks, found))
            return web.Response(text="ok")
        message = self.store.add(
            made.channel,
            self.store.bot,
            text[: checks.MAX_TEXT],
            blocks=blocks,
            thread_ts=str(body.get("thread_ts") or ""),
            to=None if everybody else made.user,
        )
        made.messages.append(message)
        self.store.changes.tell()
        return web.Response(text="ok")


class Person:
    """A user with a Slack client."""

    def __init__(self, user: User, setup: Interactions) -> None:
        self.user, self._setup, self._store = user, setup, setup.store
        self.id, self.name, self.mention = user.id, user.name, user.mention

    async def says(
        self,
        channel: Channel,
        text: str,
        *,
        mention: bool = False,
        thread: Message | str | None = None,
        files: Mapping[str, bytes] | None = None,
        subtype: str = "",
        extra: Json | None = None,
    ) -> Message:
        """Posts a message. `mention` puts the bot's mention before it; `thread` is a message of the thread, or its
        ts; `files` are name -> content; `extra` are fields of the message's JSON."""
        content = f"{self._store.bot.mention} {text}".rstrip() if mention else text
        parent = thread if isinstance(thread, str) else (thread.thread_ts or thread.ts) if thread else ""
        kept = [self._file(name, data) for name, data in (files or {}).items()]
        subtype = subtype or ("file_share" if kept else "")
        return self._store.add(channel, self.user, content, thread_ts=parent, files=kept, subtype=subtype, extra=extra)

    async def edits(self, message: Message, text: str) -> None:
        """Edits one's own message."""
        assert message.author is self.user
        self._store.change(message, Version(text, self._store.clock.now()))

    async def deletes(self, message: Message) -> None:
        """Deletes one's own message, or any message as an admin."""
        assert message.author is self.user or self.user.admin
        self._store.delete(message)

    async def commands(self, channel: Channel, text: str = "", name: str = "/inhouse") -> Interaction:
        """Uses a slash command; Slack's client offers none in threads."""
        payload: Json = {
            "token": "a-verification-token",
            "team_id": payloads.TEAM_ID,
            "team_domain": "workshop",
            "channel_id": channel.id,
            "channel_name": "directmessage" if channel.kind == IM else channel.name,
            "user_id": self.id,
            "user_name": self.name,
            "command": name,
            "text": text,
            "api_app_id": payloads.APP_ID,
            "is_enterprise_install": "false",
        }
        return self._setup.begin("slash_commands", name, payload, channel, self.user)

    async def presses(self, message: Message, label: str) -> Interaction:
        """Presses a button by its label ('Good answer' and 'Bad answer' for native feedback)."""
        for element in message.buttons:
            if element["type"] == "button" and (element.get("text") or {}).get("text") == label:
                return self._uses(message, element | {"action_ts": self._store.clock.new_ts()})
            for side in ("positive_button", "negative_button"):
                if (element.get(side) or {}).get("text", {}).get("text") == label:
                    used = {"type": "feedback_buttons", "action_id": element["action_id"], "block_id": "b1"}
                    used |= {"value": element[side]["value"], "text": element[side]["text"]}
                    return self._uses(message, used | {"action_ts": self._store.clock.new_ts()})
        raise AssertionError(f"there is no button {label!r} under {message!r}: {message.labels}")

    async def chooses(self, message: Message, value: str) -> Interaction:
        """Chooses an option of a menu under a message."""
        for element in message.buttons:
            for option in element.get("options") or []:
                if option["value"] == value:
                    used = {"type": element["type"], "action_id": element["action_id"], "block_id": "b1"}
                    used |= {"selected_option": option, "action_ts": self._store.clock.new_ts()}
                    return self._uses(message, used)
        raise AssertionError(f"there is no {value!r} to choose under {message!r}")

    async def picks(self, message: Message, callback_id: str) -> Interaction:
        """Uses a message shortcut."""
        payload = self._who(message.channel) | {
            "type": "message_action",
            "action_ts": self._store.clock.new_ts(),
            "callback_id": callback_id,
            "message_ts": message.ts,
            "message": payloads.message(message, self._store.base_url),
        }
        return self._setup.begin("interactive", "message_action", payload, message.channel, self.user, message)

    async def opens_assistant(self) -> tuple[Channel, str]:
        """Opens a new chat in the assistant view; its channel and thread ts."""
        channel = self._store.dm(self.user)
        root = self._store.add(channel, self._store.bot, "New chat", subtype="assistant_app_thread", quiet=True)
        root.thread_ts = root.ts
        about = {"user_id": self.id, "context": {}, "channel_id": channel.id, "thread_ts": root.ts}
        event = {"type": "assistant_thread_started", "assistant_thread": about, "event_ts": root.ts}
        self._store.tell(event)
        return channel, root.ts

    def _uses(self, message: Message, action: Json) -> Interaction:
        container: Json = {"type": "message", "message_ts": message.ts, "channel_id": message.channel.id}
        container |= {"is_ephemeral": message.ephemeral} | (
            {"thread_ts": message.thread_ts} if message.thread_ts else {}
        )
        payload = self._who(message.channel) | {
            "type": "block_actions",
            "container": container,
            "state": {"values": {}},
            "actions": [action],
        }
        if not message.ephemeral:
            payload["message"] = payloads.message(message, self._store.base_url)
        return self._setup.begin("interactive", "block_actions", payload, message.channel, self.user, message)

    def _who(self, channel: Channel) -> Json:
        user = {"id": self.id, "username": self.name, "name": self.name, "team_id": payloads.TEAM_ID}
        return {
            "user": user,
            "api_app_id": payloads.APP_ID,
            "token": "a-verification-token",
            "team": {"id": payloads.TEAM_ID, "domain": "workshop"},
            "enterprise": None,
            "is_enterprise_install": False,
            "channel": {"id": channel.id, "name": channel.name},
        }

    def _file(self, name: str, data: bytes) -> File:
        kinds = {"png": "image/png", "jpg": "image/jpeg", "py": "text/x-python", "txt": "text/plain"}
        kind = kinds.get(name.rpartition(".")[2], "application/octet-stream")
        file = File(self._store.clock.new_id("F"), quote(name), data, kind, self.user, self._store.clock.now())
        self._store.files[file.id] = file
        return file
