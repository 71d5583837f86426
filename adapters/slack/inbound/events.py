"""Translates Slack's messages into our events, from their payloads alone; `context` adds what has to be fetched.

A message gives the same event whether it came as `message`, as `app_mention` or from a channel's history.
"""

from dataclasses import replace

from adapters.slack.bot_identity import PLATFORM, GetIdentity
from adapters.slack.json_fields import Raw, object_of, text_of
from adapters.slack.message_text import mentions, plain_text, without_last_mention
from adapters.slack.payloads import SlackMessage, message_of, seconds_of
from bot.config.settings import Settings
from bot.types.commands import parse_message
from bot.types.messages import ConversationKey, IncomingMessage, MessageDeleted, MessageEdited, Person

SLACKBOT = "USLACKBOT"


def command_in(text: str) -> tuple[str, dict[str, str]] | None:
    """The command that a text is, with its arguments: `!name …`, or the bare word 'stop'."""
    return ("stop", {}) if text.lower().rstrip(".! ") == "stop" else parse_message(text)


class EventTranslator:
    """Translates for one bot. Authors and texts carry ids for names until `context` replaces them."""

    def __init__(self, settings: Settings, identity: GetIdentity) -> None:
        self._settings, self._identity = settings, identity

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    def key(self, channel: str, thread: str = "") -> ConversationKey:
        """The conversation of a channel, or of a thread in it."""
        return ConversationKey(PLATFORM, self._identity().team_id, channel, thread)

    def reply_key(self, message: SlackMessage) -> ConversationKey:
        """The conversation of the answer to a message: its thread, or a new one that starts from the message."""
        threads = not message.private and self._settings.reply_in_thread is not False
        return self.key(message.channel, message.thread or (message.ts if threads else ""))

    def possible_keys(self, channel: str, ts: str, thread: str = "") -> list[ConversationKey]:
        """Every conversation that may hold a message: its channel or thread, and the thread that starts from it."""
        return [self.key(channel, name) for name in dict.fromkeys((thread, thread or ts))]

    def addresses_bot(self, message: SlackMessage) -> bool:
        """Whether a message is a direct one or mentions the bot."""
        return message.private or message.mentioned or mentions(message.text, self._identity().user_id)

    def is_from_person(self, message: SlackMessage) -> bool:
        """Whether its author is neither a bot nor Slack itself."""
        return bool(message.user) and not message.bot_id and message.user not in (SLACKBOT, self._identity().user_id)

    def is_read(self, message: SlackMessage) -> bool:
        """Whether its author is a person, or a bot in INHOUSE_ALLOW_BOTS that mentions this bot."""
        if self.is_from_person(message):
            return True
        identity = self._identity()
        ours = message.bot_id == identity.bot_id or message.user == identity.user_id
        listed = any((PLATFORM, each) in self._settings.allow_bots for each in bot_ids(message))
        return listed and not ours and mentions(message.text, identity.user_id)

    def message(self, message: SlackMessage) -> IncomingMessage | None:
        """A new message; None unless a person or an allowed bot wrote it."""
        if not self.is_read(message):
            return None
        return self._event(message, self.key(message.channel, message.thread), self.addresses_bot(message))

    def question(self, message: SlackMessage) -> IncomingMessage:
        """A message that was picked for an answer, also one of a bot."""
        return self._event(message, self.reply_key(message), addressed=True)

    def preceding(self, message: SlackMessage, key: ConversationKey) -> IncomingMessage:
        """A message that belongs before another one in the conversation `key`."""
        return self._event(message, key, addressed=False)

    def edited_message(self, raw: Raw) -> SlackMessage | None:
        """The new version of a message; None unless its author changed its text (previews are changes, too)."""
        after, before = object_of(raw, "message"), object_of(raw, "previous_message")
        message = message_of(after, text_of(raw, "channel"))
        if message is None or not self.is_read(message) or text_of(after, "text") == text_of(before, "text"):
            return None
        # the changes of some bots have no time of their own
        return message if message.edited_at else replace(message, edited_at=seconds_of(text_of(raw, "ts")))

    def edits(self, message: SlackMessage) -> list[MessageEdited]:
        """An edited message, for each conversation that may hold it."""
        keys = self.possible_keys(message.channel, message.ts, message.thread)
        return [
            MessageEdited(key, message.ts, author_of(message), self.text(message), edited_at=message.edited_at)
            for key in keys
        ]

    def deletions(self, raw: Raw) -> list[MessageDeleted]:
        """A deleted message, for each conversation that may hold it; none for those of other bots."""
        channel, before = text_of(raw, "channel"), object_of(raw, "previous_message")
        ts, thread = text_of(raw, "deleted_ts") or text_of(before, "ts"), text_of(before, "thread_ts")
        deleted = message_of(before, channel)
        if not channel or not ts or (deleted is not None and not self.is_read(deleted)):
            return []
        return [MessageDeleted(key, ts) for key in self.possible_keys(channel, ts, "" if thread == ts else thread)]

    def text(self, message: SlackMessage, names: dict[str, str] | None = None) -> str:
        """The readable text of a message. `names`: people and channels by id, as far as they are known."""
        return plain_text(message.content, names or {}, self._identity().user_id)

    def command(self, message: SlackMessage, names: dict[str, str]) -> tuple[str, dict[str, str]] | None:
        """The command that a message to the bot is, with its arguments; None if it is more than that, or a bot's."""
        if message.bot_id or message.files or message.attached:
            return None
        bot_user = self._identity().user_id
        return command_in(plain_text(without_last_mention(message.text, bot_user), names, bot_user))

    def _event(self, message: SlackMessage, key: ConversationKey, addressed: bool) -> IncomingMessage:
        return IncomingMessage(
            key,
            message.ts,
            author_of(message),
            self.text(message),
            message.sent_at,
            addressed=addressed,
            edited_at=message.edited_at,
        )


def bot_ids(message: SlackMessage) -> tuple[str, ...]:
    """The ids of the bot, webhook or workflow that wrote a message, of its account and of its app."""
    return tuple(filter(None, (message.bot_id, message.user, message.app_id)))


def author_of(message: SlackMessage) -> Person:
    """The author as the payload names them: bots carry their names, people only their ids.

    A bot has no rights; its groups are the ids of its account and its app.
    """
    if message.bot_id or not message.user:
        ids = bot_ids(message)
        return Person(message.bot_id or message.user, message.bot_name or "a bot", groups=ids, is_bot=True)
    return Person(message.user, "someone")
