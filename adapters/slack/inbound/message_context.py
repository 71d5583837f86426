"""Fetches what an event needs besides its payload: names, rights, files, earlier messages, whether the bot follows.

This is the only step between translation (`events`) and the core that calls Slack. All fetches of one message share one
deadline, since Slack expects an acknowledgement within 3 s. What fails or comes too late is left out: files and earlier
messages with a remark to the reader, names with a placeholder.
"""

import asyncio
from collections.abc import Sequence, Set
from dataclasses import replace

from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.bot_identity import GetIdentity
from adapters.slack.error_mapping import mapped_errors
from adapters.slack.inbound.context_deadline import CONTEXT_S, ContextDeadline
from adapters.slack.inbound.events import EventTranslator, author_of
from adapters.slack.inbound.files import FileReader
from adapters.slack.inbound.users import UserDirectory
from adapters.slack.json_fields import body_of, object_of, objects_of, text_of
from adapters.slack.message_text import channels_in, users_in
from adapters.slack.payloads import SlackFile, SlackMessage, message_of
from bot.config.settings import Settings
from bot.platforms.adapter import Core
from bot.platforms.textfiles import Files
from bot.types.errors import StorageError
from bot.types.messages import ConversationKey, IncomingCommand, IncomingMessage, MessageEdited, Person

PAGE = 200
MAX_PAGES = 5
"""The most pages of a long thread that are read."""
UNREADABLE = "I could not read what was said before this."


class ContextFetcher:
    """Completes the events of one bot."""

    def __init__(
        self,
        settings: Settings,
        web: AsyncWebClient,
        identity: GetIdentity,
        core: Core,
        users: UserDirectory,
        translator: EventTranslator,
    ) -> None:
        self._settings, self._identity, self._core, self._users = settings, identity, core, users
        self._translator = translator
        self._files = FileReader(web, identity)
        self._history = _PrecedingMessages(web)

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    async def enrich(
        self, event: IncomingMessage, message: SlackMessage, seconds: float = CONTEXT_S
    ) -> IncomingMessage | IncomingCommand:
        """A message with all that belongs to it, or the command that it is.

        Nothing is fetched for one that the bot has nothing to do with.
        """
        following = await self._follows(event.key)
        if not event.addressed and not following:
            return event
        deadline = ContextDeadline(seconds)
        author, names = await asyncio.gather(self._author(message, deadline), self._names(message, deadline))
        if command := self._translator.command(message, names):
            name, args = command
            actor = await self._users.actor(message.user, message.channel, deadline)
            return IncomingCommand(event.key, message.ts, actor, name, args, message.sent_at)
        text = self._translator.text(message, names)
        key = self._translator.reply_key(message) if event.addressed else event.key
        alone = event.addressed and not text.strip() and not message.files
        read, (preceding, target, remark) = await asyncio.gather(
            self._files.read(message.files, deadline), self._preceding(event, message, following, alone, deadline)
        )
        with_files = {message.thread, target}
        context = await asyncio.gather(*(self._as_context(each, key, with_files, deadline) for each in preceding))
        return replace(
            event,
            key=key,
            author=author,
            text=text,
            attachments=read.texts,
            pictures=read.pictures,
            reply_to=target,
            context=tuple(each for each in context if each.text or each.attachments or each.pictures),
            remark=" ".join(filter(None, (read.remark, remark))),
        )

    async def enrich_question(self, event: IncomingMessage, message: SlackMessage) -> IncomingMessage:
        """A message that was picked for an answer, with its files and names."""
        author, text, read = await self._details(message, message.files, ContextDeadline())
        return replace(
            event, author=author, text=text, attachments=read.texts, pictures=read.pictures, remark=read.remark
        )

    async def enrich_edits(self, edits: Sequence[MessageEdited], message: SlackMessage) -> list[MessageEdited]:
        """The edits of a message with names, and with its files where the bot may have answered it."""
        deadline = ContextDeadline()
        followed = await asyncio.gather(*(self._follows(edit.key) for edit in edits))
        wanted = any(followed) or self._translator.addresses_bot(message)
        author, text, read = await self._details(message, message.files if wanted else (), deadline)
        return [
            replace(edit, author=author, text=text, attachments=read.texts, pictures=read.pictures) for edit in edits
        ]

    async def actor(self, user_id: str, channel: str) -> Person:
        """The user of a command or a button, with their rights in the channel."""
        return await self._users.actor(user_id, channel, ContextDeadline())

    async def _follows(self, key: ConversationKey) -> bool:
        """Whether this is a thread in which the bot answers without being mentioned."""
        if not key.thread or not self._settings.follow_threads:
            return False
        try:
            return await self._core.following(key)
        except StorageError:
            return True  # storing the message fails as well, so Slack delivers it again

    async def _details(
        self, message: SlackMessage, files: Sequence[SlackFile], deadline: ContextDeadline
    ) -> tuple[Person, str, Files]:
        return await asyncio.gather(
            self._author(message, deadline), self._text(message, deadline), self._files.read(files, deadline)
        )

    async def _author(self, message: SlackMessage, deadline: ContextDeadline) -> Person:
        if message.bot_id or not message.user:
            return author_of(message)
        self._users.remember(message.user, message.user_name, message.team)
        return await self._users.person(message.user, message.channel, deadline)

    async def _text(self, message: SlackMessage, deadline: ContextDeadline) -> str:
        return self._translator.text(message, await self._names(message, deadline))

    async def _names(self, message: SlackMessage, deadline: ContextDeadline) -> dict[str, str]:
        return await self._users.names(users_in(message.content), channels_in(message.content), deadline)

    async def _preceding(
        self, event: IncomingMessage, message: SlackMessage, following: bool, alone: bool, deadline: ContextDeadline
    ) -> tuple[Sequence[SlackMessage], str, str]:
        """Other people's messages that belong before this one, and a remark if they could not be read.

        alone: the message only mentions the bot, so in a thread it asks about the last message before it. The second
        value is the ts of that message, '' if there is none or if it is the bot's own.
        """
        identity = self._identity()
        alone = alone and bool(message.thread)
        with_start = bool(message.thread) and not following and message.thread_author != identity.user_id
        ambient = self._settings.ambient if event.addressed and not message.private else 0
        if not with_start and not ambient and not alone:
            return [], "", ""
        count = max(ambient, 1) if alone else ambient
        found = await deadline.limit(self._history.before(message, count, with_start or alone), None)
        if found is None:
            return [], "", UNREADABLE
        others = [each for each in found if each.user != identity.user_id and each.bot_id != identity.bot_id]
        target = found[-1].ts if alone and others and found[-1] is others[-1] else ""
        return others, target, ""

    async def _as_context(
        self, message: SlackMessage, key: ConversationKey, with_files: Set[str], deadline: ContextDeadline
    ) -> IncomingMessage:
        """An earlier message; `with_files` are the ts of those that bring their files."""
        files = message.files if message.ts in with_files else ()
        author, text, read = await self._details(message, files, deadline)
        event = self._translator.preceding(message, key)
        return replace(event, author=author, text=text, attachments=read.texts, pictures=read.pictures)


class _PrecedingMessages:
    """Reads channels and threads. Raises RetryLater, Rejected or Gone."""

    def __init__(self, web: AsyncWebClient) -> None:
        self._web = web

    async def before(self, message: SlackMessage, count: int, with_start: bool) -> list[SlackMessage]:
        """The last `count` messages before one, oldest first, `with_start` after the first message of its thread."""
        if not message.thread:
            return (await self._in_channel(message, count))[-count:] if count else []
        thread = await self._in_thread(message, PAGE if count else 1)
        start = [each for each in thread if with_start and each.ts == message.thread]
        others = [each for each in thread if each.ts != message.thread]
        return [*start, *others[-count:]] if count else start

    async def _in_channel(self, message: SlackMessage, limit: int) -> list[SlackMessage]:
        async with mapped_errors():
            answer = await self._web.conversations_history(
                channel=message.channel, latest=message.ts, inclusive=False, limit=limit
            )
        return _oldest_first(answer, message)

    async def _in_thread(self, message: SlackMessage, limit: int) -> list[SlackMessage]:
        """Slack's pages begin with the oldest messages, so the nearest ones are on the last page."""
        found: list[SlackMessage] = []
        cursor = ""
        for _ in range(MAX_PAGES):
            async with mapped_errors():
                answer = await self._web.conversations_replies(
                    channel=message.channel,
                    ts=message.thread,
                    latest=message.ts,
                    inclusive=False,
                    limit=limit,
                    cursor=cursor or None,
                )
            found += _oldest_first(answer, message)
            cursor = text_of(object_of(body_of(answer), "response_metadata"), "next_cursor")
            if not cursor or limit == 1:
                break
        return found


def _oldest_first(answer: AsyncSlackResponse, before: SlackMessage) -> list[SlackMessage]:
    raws = objects_of(body_of(answer), "messages")
    found = [each for raw in raws if (each := message_of(raw, before.channel)) and each.sent_at < before.sent_at]
    return sorted(found, key=lambda each: each.sent_at)
