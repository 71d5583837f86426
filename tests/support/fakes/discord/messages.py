"""REST: messages. Post, edit, delete, read, typing and reactions, with Discord's checks."""

from urllib.parse import unquote

from tests.support.fakes.discord import checks, payloads, pings
from tests.support.fakes.discord.bits import Can
from tests.support.fakes.discord.rest import Answer, Ask, Handler
from tests.support.fakes.discord.state import PUBLIC_THREAD, SUPPRESS_EMBEDS, Channel, File, Json, Message, Version
from tests.support.fakes.discord.store import DiscordStore

NONCE_MEMORY = 180.0
"""Seconds for which Discord remembers a nonce ('a few minutes')."""


class MessageRoutes:
    """The routes about messages."""

    def __init__(self, store: DiscordStore) -> None:
        self._store = store
        self._nonces: dict[str, Message] = {}

    def routes(self) -> dict[str, Handler]:
        """Route to handler."""
        one = "/channels/{channel_id}/messages/{message_id}"
        return {
            "POST /channels/{channel_id}/messages": self.post,
            "GET /channels/{channel_id}/messages": self.history,
            f"GET {one}": self.get,
            f"PATCH {one}": self.edit,
            f"DELETE {one}": self.delete,
            "POST /channels/{channel_id}/typing": self.typing,
            f"PUT {one}/reactions/{{emoji}}/@me": self.react,
            f"DELETE {one}/reactions/{{emoji}}/@me": self.unreact,
        }

    def post(self, ask: Ask) -> Answer:
        """Posts a message of the bot; an enforced nonce that is still remembered returns the earlier message."""
        channel = reach(self._store, ask.path["channel_id"])
        require(self._store, channel, sending_in(channel))
        checks.new_message(ask.body, ask.files)
        if ask.files:
            require(self._store, channel, Can.ATTACH_FILES)
        nonce = str(ask.body["nonce"]) if ask.body.get("nonce") is not None else None
        earlier = self._nonces.get(nonce) if nonce and ask.body.get("enforce_nonce") else None
        if earlier is not None and earlier.created_at > self._store.clock.now() - NONCE_MEMORY:
            return self._shown(earlier) | {"nonce": nonce}
        answered = self._answered(channel, ask.body)
        message = self._store.add(
            channel,
            self._store.bot,
            ask.body.get("content") or "",
            kind=19 if answered else 0,
            flags=int(ask.body.get("flags") or 0),
            nonce=nonce,
            allowed=ask.body.get("allowed_mentions"),
            embeds=ask.body.get("embeds") or [],
            components=ask.body.get("components") or [],
            files=ask.files,
            reply_to=answered,
        )
        if nonce:
            self._nonces[nonce] = message
        return self._shown(message) | ({"nonce": nonce} if nonce else {})

    def history(self, ask: Ask) -> Answer:
        """Messages of a channel, newest first; accepts before, after or around, and a limit of 1 to 100 (default
        50)."""
        channel = reach(self._store, ask.path["channel_id"])
        if not channel.can(self._store.bot) & Can.READ_MESSAGE_HISTORY:
            return []
        limit = int(ask.query.get("limit", "50"))
        if not 1 <= limit <= 100:
            raise checks.invalid("limit", "int value should be between 1 and 100.", "NUMBER_TYPE_MAX")
        found = channel.history
        if after := ask.query.get("after"):
            found = [each for each in found if int(each.id) > int(after)][:limit]
        elif before := ask.query.get("before"):
            found = [each for each in found if int(each.id) < int(before)]
        elif around := ask.query.get("around"):
            older = [each for each in found if int(each.id) < int(around)][-(limit // 2) :]
            found = older + [each for each in found if int(each.id) >= int(around)][: limit - len(older)]
        return [self._shown(each) for each in reversed(found[-limit:])]

    def get(self, ask: Ask) -> Answer:
        """One message."""
        channel = reach(self._store, ask.path["channel_id"])
        require(self._store, channel, Can.READ_MESSAGE_HISTORY)
        return self._shown(find(channel, ask.path["message_id"]))

    def edit(self, ask: Ask) -> Answer:
        """Edits the bot's own message; fields that are not given are kept."""
        message = find(reach(self._store, ask.path["channel_id"]), ask.path["message_id"])
        if message.author is not self._store.bot:
            raise checks.ApiError(403, 50005, "Cannot edit a message authored by another user")
        change(self._store, message, ask.body, ask.files)
        return self._shown(message)

    def delete(self, ask: Ask) -> Answer:
        """Deletes the bot's own message, or any message with MANAGE_MESSAGES."""
        channel = reach(self._store, ask.path["channel_id"])
        message = find(channel, ask.path["message_id"])
        if message.author is not self._store.bot:
            require(self._store, channel, Can.MANAGE_MESSAGES)
        self._store.delete(message)
        return None

    def typing(self, ask: Ask) -> Answer:
        """Shows the typing indicator."""
        channel = reach(self._store, ask.path["channel_id"])
        require(self._store, channel, sending_in(channel))
        channel.typing.append(self._store.clock.now())
        return None

    def react(self, ask: Ask) -> Answer:
        """Adds the bot's reaction."""
        channel = reach(self._store, ask.path["channel_id"])
        require(self._store, channel, Can.ADD_REACTIONS | Can.READ_MESSAGE_HISTORY)
        self._store.react(find(channel, ask.path["message_id"]), self._store.bot, unquote(ask.path["emoji"]))
        return None

    def unreact(self, ask: Ask) -> Answer:
        """Removes the bot's reaction."""
        message = find(reach(self._store, ask.path["channel_id"]), ask.path["message_id"])
        message.reactions.get(unquote(ask.path["emoji"]), set()).discard(self._store.bot.id)
        return None

    def _shown(self, message: Message) -> Json:
        return payloads.message(message, self._store.bot, self._store.message_content)

    def _answered(self, channel: Channel, body: Json) -> Message | None:
        """The message that a post replies to."""
        reference = body.get("message_reference")
        if not reference:
            return None
        require(self._store, channel, Can.READ_MESSAGE_HISTORY)
        found = next((each for each in channel.history if each.id == str(reference.get("message_id"))), None)
        if found is None and reference.get("fail_if_not_exists", True):
            raise checks.invalid("message_reference", "Unknown message", "REPLIES_UNKNOWN_MESSAGE")
        return found


def reach(store: DiscordStore, channel_id: str) -> Channel:
    """The channel, which must exist (10003) and be visible to the bot (50001)."""
    channel = store.channels.get(channel_id)
    if channel is None:
        raise checks.unknown("Channel", 10003)
    if not channel.can(store.bot) & Can.VIEW_CHANNEL:
        raise checks.ApiError(403, 50001, "Missing Access")
    return channel


def require(store: DiscordStore, channel: Channel, needed: Can) -> None:
    """Checks that the bot has these permissions here (50013)."""
    if channel.can(store.bot) & needed != needed:
        raise checks.missing_permissions()


def sending_in(channel: Channel) -> Can:
    """The permission that a post in this channel needs."""
    return Can.SEND_MESSAGES_IN_THREADS if channel.kind == PUBLIC_THREAD else Can.SEND_MESSAGES


def find(channel: Channel, message_id: str) -> Message:
    """The message, which must exist (10008)."""
    for message in channel.everything:
        if message.id == message_id and not message.deleted:
            return message
    raise checks.unknown("Message", 10008)


def change(store: DiscordStore, message: Message, body: Json, files: list[File]) -> None:
    """Applies an edit by the bot; without allowed_mentions all mentions are parsed again."""
    checks.message(body, files)
    before = message.versions[-1]
    content = body["content"] or "" if "content" in body else before.content
    embeds = body["embeds"] or [] if "embeds" in body else before.embeds
    components = body["components"] or [] if "components" in body else before.components
    kept = message.attachments
    if "attachments" in body:
        wanted = {str(each["id"]) for each in body["attachments"] or []}
        kept = [file for file in kept if file.id in wanted]
    checks.not_empty(content, embeds, [*kept, *files])
    if body.get("flags") is not None:
        message.flags = message.flags & ~SUPPRESS_EMBEDS | int(body["flags"]) & SUPPRESS_EMBEDS
    message.attachments = [*kept, *files]
    allowed = body.get("allowed_mentions")
    named = pings.evaluate(content, allowed) if "content" in body else pings.NO_PINGS
    links = pings.previews(content, bool(message.flags & SUPPRESS_EMBEDS))
    store.edit(message, Version(content, store.clock.now(), named, links, embeds, components, allowed))
