"""What happens on Slack, as our events.

In: Slack's message objects, live or read back. Out: IncomingMessage and IncomingCommand with all that belongs to them
(names, files, what a thread starts from), or None for what is nobody's business. It promises that the same message
gives the same event however it came (as `message` or as `app_mention`), and that what Slack does not tell in time is
left out, with a remark, and never keeps a message back.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.context import Background
from adapters.slack.files import FileReader
from adapters.slack.me import PLATFORM, MeNow
from adapters.slack.patience import PATIENCE_S, Patience
from adapters.slack.payloads import Message, Raw, is_private, message_of, object_of, text_of
from adapters.slack.people import People
from adapters.slack.text import channels_in, mentions, plain_text, users_in
from bot.adapter import Core
from bot.commands import parse_text
from bot.config import Settings
from bot.errors import StorageError
from bot.messages import ConversationKey, IncomingCommand, IncomingMessage, MessageDeleted, MessageEdited, Person

log = logging.getLogger(__name__)

SLACKBOT = "USLACKBOT"
PREFIX = "!"


@dataclass(frozen=True, slots=True)
class _Heard:
    """A message with what has to be known before it is worth fetching anything more for it."""

    message: Message
    key: ConversationKey
    author: Person
    text: str
    addressed: bool
    following: bool


class Events:
    """Translates for one bot."""

    def __init__(self, settings: Settings, web: AsyncWebClient, me: MeNow, core: Core, people: People) -> None:
        self._settings, self._me, self._core, self._people = settings, me, core, people
        self._files = FileReader(web, me)
        self._background = Background(settings, web)

    def reload(self, settings: Settings) -> None:
        """Go by these from now on."""
        self._settings = settings
        self._background.reload(settings)

    def key(self, channel: str, thread: str = "") -> ConversationKey:
        """The conversation that a channel, or a thread in it, is."""
        return ConversationKey(PLATFORM, self._me().team_id, channel, thread)

    def answered_in(self, channel: str, ts: str, thread: str = "") -> ConversationKey:
        """The conversation of the answer to a message: that of its thread, or a thread that starts from it."""
        threads = not is_private(channel) and self._settings.reply_in_thread is not False
        return self.key(channel, thread or (ts if threads else ""))

    def keys_of(self, channel: str, ts: str, thread: str = "") -> list[ConversationKey]:
        """Every conversation that a message may be in: a thread that starts from it holds it, too."""
        keys = [self.key(channel, thread), self.answered_in(channel, ts, thread), self.key(channel, thread or ts)]
        return list(dict.fromkeys(keys))

    async def said(self, raw: Raw, patience_s: float = PATIENCE_S) -> IncomingMessage | IncomingCommand | None:
        """What a new message means; None for those of bots, and for what Slack says itself."""
        message = message_of(raw)
        if message is None or not self._is_persons(message):
            return None
        following = await self._follows(self.key(message.channel, message.thread))
        if not self.addresses(message) and not following and not message.text.startswith(PREFIX):
            return self._talk(message)
        patience = Patience(patience_s)
        heard = await self._hear(message, following, patience)
        command = self._command(heard)
        if command is not None:
            name, args = command
            actor = await self._people.actor(message.user, message.channel, patience)
            return IncomingCommand(heard.key, message.ts, actor, name, args, message.sent_at)
        if not heard.addressed and not following:
            return self._talk(message)
        return await self._complete(heard, patience)

    async def edited(self, raw: Raw) -> list[MessageEdited]:
        """What a changed message says now, for each conversation that it may be in; none if no person changed its text
        (Slack adds previews and threads by changes, too)."""
        after, before = object_of(raw, "message"), object_of(raw, "previous_message")
        message = message_of(after, text_of(raw, "channel"))
        if message is None or not self._is_persons(message) or text_of(after, "text") == text_of(before, "text"):
            return []
        patience = Patience()
        keys = self.keys_of(message.channel, message.ts, message.thread)
        followed = await asyncio.gather(*(self._follows(key) for key in keys))
        author, text, read = await asyncio.gather(
            self._people.person(message.user, message.channel, patience),
            self._text(message, patience),
            self._files.read(message.files if any(followed) or self.addresses(message) else (), patience),
        )
        return [MessageEdited(key, message.ts, author, text, read.texts) for key in keys]

    def gone(self, raw: Raw) -> list[MessageDeleted]:
        """A message that is to be forgotten, in each conversation that it may be in."""
        channel, before = text_of(raw, "channel"), object_of(raw, "previous_message")
        ts, thread = text_of(raw, "deleted_ts") or text_of(before, "ts"), text_of(before, "thread_ts")
        known = message_of(before, channel)
        if not channel or not ts or (known is not None and not self._is_persons(known)):
            return []
        keys = self.keys_of(channel, ts, "" if thread == ts else thread)
        return [MessageDeleted(key, ts) for key in keys]

    async def asked_about(self, raw: Raw, channel: str) -> IncomingMessage | None:
        """A message that somebody wants an answer to, whoever wrote it."""
        message = message_of(raw, channel)
        if message is None:
            return None
        patience = Patience()
        author, text, read = await asyncio.gather(
            self._author(message, patience), self._text(message, patience), self._files.read(message.files, patience)
        )
        key = self.answered_in(message.channel, message.ts, message.thread)
        return IncomingMessage(key, message.ts, author, text, message.sent_at, True, read.texts, remark=read.remark)

    async def actor(self, user_id: str, channel: str) -> Person:
        """Whoever used a command or a button, with what they may do there."""
        return await self._people.actor(user_id, channel, Patience())

    async def _hear(self, message: Message, following: bool, patience: Patience) -> _Heard:
        author, text = await asyncio.gather(
            self._people.person(message.user, message.channel, patience), self._text(message, patience)
        )
        key = self.key(message.channel, message.thread)
        return _Heard(message, key, author, text, self.addresses(message), following)

    def _talk(self, message: Message) -> IncomingMessage:
        """What is not meant for the bot, of which nothing is kept: no names are asked for."""
        key, author = self.key(message.channel, message.thread), Person(message.user, "someone")
        text = plain_text(message.text, {}, self._me().user_id)
        return IncomingMessage(key, message.ts, author, text, message.sent_at, addressed=False)

    def _is_persons(self, message: Message) -> bool:
        return bool(message.user) and not message.bot_id and message.user not in (SLACKBOT, self._me().user_id)

    def addresses(self, message: Message) -> bool:
        """In a direct message, or by its name."""
        return message.private or message.called or mentions(message.text, self._me().user_id)

    async def _follows(self, key: ConversationKey) -> bool:
        """Whether this is in a thread that the bot takes part in."""
        if not key.thread or not self._settings.follow_threads:
            return False
        try:
            return await self._core.following(key)
        except StorageError:
            return True  # the message itself will not be stored either, and then comes again

    def _command(self, heard: _Heard) -> tuple[str, dict[str, str]] | None:
        """The command that a message is: `!stop`, and the bare word, which only comes here where the bot is meant."""
        if heard.text.lower().rstrip(".! ") == "stop":
            return "stop", {}
        return parse_text(heard.text)

    async def _complete(self, heard: _Heard, patience: Patience) -> IncomingMessage:
        """A message with its files, and with what belongs before it."""
        message = heard.message
        key = self.answered_in(message.channel, message.ts, message.thread) if heard.addressed else heard.key
        read, (before, missing) = await asyncio.gather(
            self._files.read(message.files, patience), self._before(heard, patience)
        )
        context = await asyncio.gather(*(self._as_context(each, message, key, patience) for each in before))
        return IncomingMessage(
            key=key,
            message_id=message.ts,
            author=heard.author,
            text=heard.text,
            sent_at=message.sent_at,
            addressed=heard.addressed,
            attachments=read.texts,
            context=tuple(each for each in context if each.text or each.attachments),
            remark=" ".join(filter(None, (read.remark, missing))),
        )

    async def _before(self, heard: _Heard, patience: Patience) -> tuple[Sequence[Message], str]:
        """The messages of others that belong before this one, and a sentence if they could not be read."""
        message, me = heard.message, self._me()
        starts = bool(message.thread) and not heard.following and message.parent != me.user_id
        if not starts and not (heard.addressed and self._settings.ambient and not message.private):
            return [], ""
        missing = "I could not read what was said before this."
        found = await patience.spent_on(self._background.before(message, starts), None)
        if found is None:
            return [], missing
        return [each for each in found if each.user != me.user_id and each.bot_id != me.bot_id], ""

    async def _as_context(
        self, message: Message, question: Message, key: ConversationKey, patience: Patience
    ) -> IncomingMessage:
        first = message.ts == question.thread
        author, text, read = await asyncio.gather(
            self._author(message, patience),
            self._text(message, patience),
            self._files.read(message.files if first else (), patience),
        )
        return IncomingMessage(key, message.ts, author, text, message.sent_at, False, read.texts)

    async def _author(self, message: Message, patience: Patience) -> Person:
        """Whoever wrote a message: a bot tells its name with it."""
        if message.bot_id or not message.user:
            return Person(message.bot_id or message.user, message.bot_name or "a bot")
        return await self._people.person(message.user, message.channel, patience)

    async def _text(self, message: Message, patience: Patience) -> str:
        text = message.text
        names = await self._people.names(users_in(text), channels_in(text), patience)
        return plain_text(text, names, self._me().user_id)
