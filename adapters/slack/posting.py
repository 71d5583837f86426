"""Replies onto Slack: streamed or posted, edited, found again, and the status line.

In: replies as they should look. Out: Slack's messages. It promises: nobody is notified and no link is unfurled; a post
is made once, however often its answer is lost; the final text is always brought by an edit of the whole message, so
that no stream's end is missed; a channel that is slow or forbids writing troubles no other.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack import blocks
from adapters.slack.calls import WriteCalls
from adapters.slack.failures import code_of, mapped_errors
from adapters.slack.finding import find_message
from adapters.slack.me import GetIdentity
from adapters.slack.mrkdwn import mrkdwn
from adapters.slack.pace import RateLimits
from adapters.slack.streaming import MAX_STREAM_S, Streams
from adapters.slack.uploads import upload
from bot.adapter import Dialect, Limits
from bot.config import Settings
from bot.errors import AdapterError, OutcomeUnknown, Rejected, RetryLater
from bot.formatting import split
from bot.messages import Attachment, ConversationKey, Reply

log = logging.getLogger(__name__)

MAX_CHARS = 3800
"""Characters of one message, marks escaped; a longer text would be hard to read in a thread."""
MIN_INTERVAL_S = 0.8
"""The least time between two versions of a message, as fast as one alone may be appended to or edited."""
MAX_NOTICE_CHARS = 2900
"""Characters of words of our own in one message."""
STATUS_REPEAT_S = 60.0
"""Slack forgets a status after two minutes; the same one is not set again before this."""
READING, WRITING = "is reading…", "is writing…"
MAX_REMEMBERED = 2000
MAX_TRIES = 5
"""So often something is tried that Slack has no time for."""
_BAD_BLOCKS = frozenset({"invalid_blocks", "invalid_blocks_format", "invalid_attachments"})
_NO_STATUS = frozenset({"unknown_method", "missing_scope", "not_allowed", "feature_not_enabled"})


class Posting:
    """Carries replies. `me` raises RetryLater while it is not known who we are."""

    def __init__(
        self,
        settings: Settings,
        web: AsyncWebClient,
        identity: GetIdentity,
        rate_limits: RateLimits | None = None,
        max_stream_s: float = MAX_STREAM_S,
    ) -> None:
        self._settings, self._web, self._identity = settings, web, identity
        self._calls = WriteCalls(rate_limits or RateLimits())
        self.streams = Streams(web, identity, self._calls, max_stream_s)
        self._native_feedback = True  # the workspace takes native feedback buttons
        self._status_supported = True
        self._statuses_shown: OrderedDict[ConversationKey, tuple[str, float]] = OrderedDict()
        self._attached: OrderedDict[str, None] = OrderedDict()

    def reload(self, settings: Settings) -> None:
        """Go by these from now on."""
        self._settings = settings

    @property
    def limits(self) -> Limits:
        """What Slack can show here."""
        return Limits(
            max_chars=MAX_CHARS,
            min_interval_s=MIN_INTERVAL_S * self._calls.rate_limits.scale,
            appends=self.streams.supported and self._status_supported,
            prefix="!",
            dialect=Dialect.SLACK,
            attach_over=self._settings.attach_over,
        )

    async def post(self, reply: Reply) -> str:
        """Show a reply for the first time; the message's ts. Raises RetryLater, Rejected or OutcomeUnknown."""
        self._identity()
        self._statuses_shown.pop(reply.key, None)  # Slack takes it away when something is posted
        if self.streams.can_start(reply) and self.limits.appends and (ts := await self.streams.start(reply)):
            return ts
        text = reply.committed + reply.tail

        async def send() -> AsyncSlackResponse:
            return await self._web.chat_postMessage(
                channel=reply.key.channel,
                thread_ts=reply.key.thread or None,
                text=text[: blocks.MAX_FALLBACK],
                blocks=blocks.answer(reply, text, feedback=self._native_feedback),
                metadata=blocks.metadata(reply),
                unfurl_links=False,
                unfurl_media=False,
            )

        answer = await self._calls.make(
            "chat.postMessage", reply.key.channel, lambda: self._with_supported_buttons(send), posting=True
        )
        await self._attach(reply)
        return str(answer["ts"])

    async def update(self, reply: Reply) -> None:
        """Bring a message up to date. Raises RetryLater, Rejected or Gone."""
        assert reply.platform_id is not None
        if reply.final:
            await self.streams.end(reply)
            await self._edit(reply, progress=False)
            await self._attach(reply)
            await self.status(reply.key, None)
        elif reply.committed:
            await self.status(reply.key, WRITING)
        if not reply.final and not await self.streams.append(reply):
            await self._edit(reply, progress=True)

    async def find_posted(self, reply: Reply) -> str | None:
        """The ts of the message of a reply that may have been posted. Raises RetryLater, Rejected or Gone."""
        return await find_message(self._web, self._calls, self._identity(), reply)

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Show beside the bot's name, in a thread, what is going on; elsewhere there is no place for it."""
        if text is not None:
            await self._show_status(key, text or READING)
        elif key in self._statuses_shown:
            await self._show_status(key, "")
            self._statuses_shown.pop(key, None)

    async def _show_status(self, key: ConversationKey, status_text: str) -> None:
        now = monotonic()
        shown, since = self._statuses_shown.get(key, ("", 0.0))
        method = "assistant.threads.setStatus"
        if not key.thread or not self._status_supported or (shown == status_text and now - since < STATUS_REPEAT_S):
            return
        if not self._calls.rate_limits.available(method, key.channel):
            return
        self._statuses_shown[key] = (status_text, now)
        self._statuses_shown.move_to_end(key)
        if len(self._statuses_shown) > MAX_REMEMBERED:
            self._statuses_shown.popitem(last=False)
        try:
            await self._calls.make(
                method,
                key.channel,
                lambda: self._web.assistant_threads_setStatus(
                    channel_id=key.channel, thread_ts=key.thread, status=status_text
                ),
            )
        except RetryLater:
            self._statuses_shown.pop(key, None)  # it is not shown
        except Rejected as error:
            if code_of(error.__cause__ or error) in _NO_STATUS:
                log.info("Slack shows no status here, so waiting is told by messages: %s", error)
                self._status_supported = False

    async def send_notice(
        self,
        key: ConversationKey,
        text: str,
        *,
        thread: str,
        to: str = "",
        attachment: Attachment | None = None,
    ) -> None:
        """Words of our own, in a thread ('' for none); `to`: for that person's eyes only. Raises AdapterError.

        What Slack has no time for now is said a little later, from there on and not from the beginning.
        """
        for part in split(text, MAX_NOTICE_CHARS) if text else ():
            await _retried(partial(self._send_text, key.channel, mrkdwn(part.text), thread, to))
        if attachment is not None:
            await _retried(partial(self._send_file, attachment, key.channel, thread, to))

    async def _send_file(self, file: Attachment, channel: str, thread: str, to: str) -> None:
        if to:
            async with mapped_errors():
                channel, thread = str((await self._web.conversations_open(users=to))["channel"]["id"]), ""
        await upload(self._web, file, channel, thread)

    async def _send_text(self, channel: str, text: str, thread: str, to: str) -> None:
        how: dict[str, Any] = {"channel": channel, "thread_ts": thread or None, "text": text}  # Any: arguments
        if to:
            await self._calls.make("chat.postEphemeral", channel, lambda: self._web.chat_postEphemeral(user=to, **how))
            return
        how |= {"metadata": blocks.note_metadata(), "unfurl_links": False, "unfurl_media": False}
        await self._calls.make("chat.postMessage", channel, lambda: self._web.chat_postMessage(**how), posting=True)

    async def _edit(self, reply: Reply, *, progress: bool) -> None:
        channel, ts, text = reply.key.channel, str(reply.platform_id), reply.committed + reply.tail

        async def send() -> AsyncSlackResponse:
            return await self._web.chat_update(
                channel=channel,
                ts=ts,
                text=text[: blocks.MAX_FALLBACK],
                blocks=blocks.answer(reply, text, feedback=self._native_feedback),
                metadata=blocks.metadata(reply),
            )

        try:
            await self._calls.make(
                "chat.update", channel, lambda: self._with_supported_buttons(send), progress=progress
            )
        except Rejected as error:
            if code_of(error.__cause__ or error) != "streaming_state_conflict":
                raise
            await self.streams.close_leftover(channel, ts)  # an earlier process left it open
            await self._calls.make("chat.update", channel, lambda: self._with_supported_buttons(send))

    async def _with_supported_buttons(self, send: Callable[[], Awaitable[AsyncSlackResponse]]) -> AsyncSlackResponse:
        """Send; where the workspace does not take native feedback buttons, plain ones from then on."""
        try:
            return await send()
        except SlackApiError as error:
            if not self._native_feedback or code_of(error) not in _BAD_BLOCKS:
                raise
            self._native_feedback = False
            return await send()

    async def _attach(self, reply: Reply) -> None:
        """The file that holds the whole of a long answer, once."""
        if reply.attachment is None or reply.reply_id in self._attached:
            return
        try:
            await _retried(partial(upload, self._web, reply.attachment, reply.key.channel, reply.key.thread))
        except OutcomeUnknown as error:  # most likely it is there; better none than two
            log.warning("Whether the file of an answer is on Slack is not known: %s", error)
        except AdapterError as error:
            log.warning("The file of an answer could not be sent to Slack: %s", error)
            with suppress(AdapterError):
                missing = "*(I could not attach the file with the whole answer.)*"
                await self.send_notice(reply.key, missing, thread=reply.key.thread)
        self._attached[reply.reply_id] = None
        if len(self._attached) > MAX_REMEMBERED:
            self._attached.popitem(last=False)


async def _retried(call: Callable[[], Awaitable[None]]) -> None:
    """Make a call; again a few times while Slack asks for patience. Raises AdapterError."""
    for attempt in range(1, MAX_TRIES):
        try:
            return await call()
        except RetryLater as error:
            log.info("Something has to wait: %s", error)
            await asyncio.sleep(error.seconds * attempt)
    return await call()
