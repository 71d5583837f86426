"""Shows replies on Slack: posts or streams them, edits them, finds them again, and sets the status line.

No message notifies anybody or unfurls a link. A post is made once even if its answer is lost. The final text always
comes as an edit of the whole message, so it does not depend on how a stream ended. A channel that is slow or forbids
writing does not delay others.
"""

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

from adapters.retries import retried
from adapters.slack.bot_identity import GetIdentity
from adapters.slack.error_mapping import code_of, mapped_errors
from adapters.slack.outbound import blocks
from adapters.slack.outbound.api_calls import WriteCalls, upload
from adapters.slack.outbound.mrkdwn import mrkdwn
from adapters.slack.outbound.posted_messages import find_message
from adapters.slack.outbound.rate_limits import RateLimits
from adapters.slack.outbound.streaming import Streams
from bot.config.settings import Settings
from bot.platforms.adapter import Dialect, Limits
from bot.platforms.splitter import split
from bot.types.errors import AdapterError, OutcomeUnknown, Rejected, RetryLater
from bot.types.messages import Attachment, ConversationKey, Reply

log = logging.getLogger(__name__)

MAX_CHARS = 3800
"""The most characters of one message, escaped. Longer ones are hard to read in a thread."""
MIN_INTERVAL_S = 0.8
"""The least time between two updates of a message, seconds: the rate that Slack allows for a single one."""
MAX_NOTICE_CHARS = 2900
"""The most characters of a notice in one message."""
STATUS_REPEAT_S = 60.0
"""Seconds before the same status is set again; Slack removes it after two minutes."""
READING, WRITING = "is reading…", "is writing…"
MAX_REMEMBERED = 2000
MAX_TRIES = 5
"""Tries of a call that Slack answers with a rate limit or an outage."""
_BAD_BLOCKS = frozenset({"invalid_blocks", "invalid_blocks_format", "invalid_attachments"})
_NO_STATUS = frozenset({"unknown_method", "missing_scope", "not_allowed", "feature_not_enabled"})


class Posting:
    """Posts replies and notices. `identity` raises RetryLater before the first authentication."""

    def __init__(
        self,
        settings: Settings,
        web: AsyncWebClient,
        identity: GetIdentity,
        rate_limits: RateLimits | None = None,
    ) -> None:
        self._settings, self._web, self._identity = settings, web, identity
        self._calls = WriteCalls(rate_limits or RateLimits())
        self.streams = Streams(web, identity, self._calls)
        self._native_feedback = True  # the workspace takes native feedback buttons
        self._status_supported = True
        self._statuses_shown: OrderedDict[ConversationKey, tuple[str, float]] = OrderedDict()
        self._attached: OrderedDict[str, None] = OrderedDict()

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on."""
        self._settings = settings

    @property
    def limits(self) -> Limits:
        """What Slack can show in this workspace."""
        return Limits(
            max_chars=MAX_CHARS,
            min_interval_s=MIN_INTERVAL_S * self._calls.rate_limits.scale,
            appends=self.streams.supported and self._status_supported,
            prefix="!",
            dialect=Dialect.SLACK,
            attach_over=self._settings.attach_over,
        )

    async def post(self, reply: Reply) -> str:
        """Post a reply; returns the message's ts. Raises RetryLater, Rejected or OutcomeUnknown."""
        self._identity()
        self._statuses_shown.pop(reply.key, None)  # a post removes the status
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
        """Update a posted reply. Raises RetryLater, Rejected or Gone."""
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
        """The ts of a reply that may have been posted. Raises RetryLater, Rejected or Gone."""
        return await find_message(self._web, self._calls, self._identity(), reply)

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Show a status beside the bot's name; only threads have one. None removes it."""
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
            self._statuses_shown.pop(key, None)  # it was not set
        except Rejected as error:
            if code_of(error.__cause__ or error) in _NO_STATUS:
                log.info("This workspace has no status line, so waiting is shown in messages: %s", error)
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
        """Post a notice, in a thread unless it is ''. `to`: only this person sees it. Raises AdapterError.

        Each part is retried on its own, so that no part is posted twice.
        """
        for part in split(text, MAX_NOTICE_CHARS) if text else ():
            await retried(partial(self._send_text, key.channel, mrkdwn(part.text), thread, to), MAX_TRIES)
        if attachment is not None:
            await retried(partial(self._send_file, attachment, key.channel, thread, to), MAX_TRIES)

    async def _send_file(self, file: Attachment, channel: str, thread: str, to: str) -> None:
        if to:
            async with mapped_errors():
                channel, thread = str((await self._web.conversations_open(users=to))["channel"]["id"]), ""
        await upload(self._web, file, channel, thread)

    async def _send_text(self, channel: str, text: str, thread: str, to: str) -> None:
        fields: dict[str, Any] = {"channel": channel, "thread_ts": thread or None, "text": text}  # Any: arguments
        if to:
            await self._calls.make(
                "chat.postEphemeral", channel, lambda: self._web.chat_postEphemeral(user=to, **fields)
            )
            return
        fields |= {"metadata": blocks.note_metadata(), "unfurl_links": False, "unfurl_media": False}
        await self._calls.make("chat.postMessage", channel, lambda: self._web.chat_postMessage(**fields), posting=True)

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
            await self.streams.close_leftover(channel, ts)  # left open by an earlier process
            await self._calls.make("chat.update", channel, lambda: self._with_supported_buttons(send))

    async def _with_supported_buttons(self, send: Callable[[], Awaitable[AsyncSlackResponse]]) -> AsyncSlackResponse:
        """Send with native feedback buttons, or with plain ones once the workspace refused them."""
        try:
            return await send()
        except SlackApiError as error:
            if not self._native_feedback or code_of(error) not in _BAD_BLOCKS:
                raise
            self._native_feedback = False
            return await send()

    async def _attach(self, reply: Reply) -> None:
        """Upload the file with the whole of a long answer, once."""
        if reply.attachment is None or reply.reply_id in self._attached:
            return
        try:
            await retried(partial(upload, self._web, reply.attachment, reply.key.channel, reply.key.thread), MAX_TRIES)
        except OutcomeUnknown as error:  # most likely it was uploaded, and twice would be worse
            log.warning("The upload of an answer's file has an unknown outcome: %s", error)
        except AdapterError as error:
            log.warning("The file of an answer could not be sent to Slack: %s", error)
            with suppress(AdapterError):
                missing = "*(I could not attach the file with the whole answer.)*"
                await self.send_notice(reply.key, missing, thread=reply.key.thread)
        self._attached[reply.reply_id] = None
        if len(self._attached) > MAX_REMEMBERED:
            self._attached.popitem(last=False)
