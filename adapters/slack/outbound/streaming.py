"""Shows answers with Slack's native streams: started in a thread, appended to, stopped.

A stream shows only committed text. Where a stream cannot show a text (it began anew, or takes longer than Slack keeps a
stream open), the same message is edited instead. Whether the workspace has streams is found out at the first start.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic

from slack_sdk.models.messages.chunk import BlocksChunk, Chunk, MarkdownTextChunk
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.bot_identity import GetIdentity
from adapters.slack.error_mapping import CHANNEL_FORBIDDEN, code_of
from adapters.slack.outbound import blocks
from adapters.slack.outbound.api_calls import Call, WriteCalls
from adapters.slack.payloads import is_private
from bot.platforms.splitter import safe_cut
from bot.types.errors import Gone, NotSent, OutcomeUnknown, Rejected
from bot.types.messages import Reply

log = logging.getLogger(__name__)

MAX_STREAM_S = 240.0
"""Seconds after which a stream is stopped; Slack closes it after 300."""
EXPIRY_S = 3600.0
NO_TEXT_RETRY_S = 0.1
"""Seconds until the next try while there is no text to show."""

_ENDED = frozenset(
    {"message_not_in_streaming_state", "stream_not_found", "streaming_state_conflict", "stopped_by_user"}
)
_NO_STREAMS = frozenset(
    {
        "unknown_method",
        "method_deprecated",
        "missing_scope",
        "feature_not_enabled",
        "not_allowed",
        "not_allowed_token_type",
        "team_not_allowed",
        "access_denied",
        "invalid_chunks",
        "invalid_blocks",
        "invalid_blocks_format",
    }
)
"""Errors that say that the workspace or the app has no streams, or none that can show the Stop button."""

OnStop = Callable[[Reply], Awaitable[None]]
TeamOf = Callable[[str], Awaitable[str]]


@dataclass(slots=True)
class OpenStream:
    """One open stream: its message and the text sent so far. Slack wants all text of a stream in chunks, or none."""

    reply: Reply
    ts: str
    sent: str
    started_at: float


class Streams:
    """The open streams by reply.

    `on_stop` is called with a reply whose stream a person stopped in Slack. `team_of` returns the id of a user's
    workspace, '' if it is not known.
    """

    def __init__(self, web: AsyncWebClient, identity: GetIdentity, calls: WriteCalls) -> None:
        self._web, self._identity, self._calls = web, identity, calls
        self._open: dict[str, OpenStream] = {}
        self.supported = True
        """Whether the workspace has streams, as far as is known."""
        self.on_stop: OnStop | None = None
        self.team_of: TeamOf | None = None

    def can_start(self, reply: Reply) -> bool:
        """Whether a reply can be streamed: unfinished, in a thread, to a person, within the rate limit for streams."""
        recipient = is_private(reply.key.channel) or reply.asker.id.startswith(("U", "W"))
        return self.supported and not reply.final and bool(reply.key.thread) and recipient and self._may_start(reply)

    async def start(self, reply: Reply) -> str | None:
        """Start a stream; returns its ts, or None if this reply cannot be streamed. Raises AdapterError."""
        text = _without_half_entity(reply.committed)
        if not text.strip():
            raise NotSent(NO_TEXT_RETRY_S, "there is no text yet")
        await self._end_earlier_parts(reply)
        try:
            stream = await self._open_stream(reply, text)
        except Rejected as error:
            code = code_of(error.__cause__ or error)
            if isinstance(error, Gone) or not code or code in CHANNEL_FORBIDDEN:
                raise
            if code in _NO_STREAMS:
                log.info("This workspace has no streams (%s), so answers are shown by edits.", code)
                self.supported = False
            else:
                log.warning("Slack refused a stream (%s), so this answer is shown by edits.", code)
            return None
        self._drop_expired()
        self._open[reply.reply_id] = stream
        return stream.ts

    async def append(self, reply: Reply) -> bool:
        """Append new text; False if the reply has no open stream any more. Raises RetryLater or Gone."""
        stream = self._open.get(reply.reply_id)
        if stream is None:
            return False
        text = _without_half_entity(reply.committed)
        # Less is committed while a code block is open, so the whole text tells whether it began anew.
        anew = not f"{reply.committed}{reply.tail}".startswith(stream.sent)
        if anew or monotonic() - stream.started_at > MAX_STREAM_S:
            await self._stop(reply, stream, "")
            return False
        new = text[len(stream.sent) :]
        if not new:
            return True
        try:
            await self._calls.make(
                "chat.appendStream",
                reply.key.channel,
                lambda: self._web.chat_appendStream(channel=reply.key.channel, ts=stream.ts, chunks=_chunks(new)),
                posting=True,
                progress=True,
            )
        except Gone:
            self._open.pop(reply.reply_id, None)
            raise
        except OutcomeUnknown:  # appending again might show it twice
            self._open.pop(reply.reply_id, None)
            return False
        except Rejected as error:
            self._open.pop(reply.reply_id, None)
            if code_of(error.__cause__ or error) == "stopped_by_user" and self.on_stop is not None:
                await self.on_stop(reply)
            return False
        stream.sent = text
        return True

    async def end(self, reply: Reply) -> None:
        """Stop the stream of a reply, if it has one, with the rest of its text. Raises RetryLater or Gone."""
        stream = self._open.get(reply.reply_id)
        if stream is not None:
            text = reply.committed + reply.tail
            await self._stop(reply, stream, text[len(stream.sent) :] if text.startswith(stream.sent) else "")

    async def close_leftover(self, channel: str, ts: str) -> None:
        """Stop a stream that an earlier process started. Raises RetryLater or Gone."""
        await self._call_stop(channel, lambda: self._web.chat_stopStream(channel=channel, ts=ts))

    async def _stop(self, reply: Reply, stream: OpenStream, rest: str) -> None:
        try:
            await self._call_stop(
                reply.key.channel,
                lambda: self._web.chat_stopStream(
                    channel=reply.key.channel,
                    ts=stream.ts,
                    metadata=blocks.metadata(reply),
                    chunks=_chunks(rest) or None,
                ),
            )
        except Gone:
            self._open.pop(reply.reply_id, None)
            raise
        self._open.pop(reply.reply_id, None)

    def _drop_expired(self) -> None:
        """Drop streams of abandoned answers, which Slack has closed long ago."""
        oldest = monotonic() - EXPIRY_S
        self._open = {name: stream for name, stream in self._open.items() if stream.started_at > oldest}

    async def _end_earlier_parts(self, reply: Reply) -> None:
        """Stop the streams of earlier parts: these are full, and only a stopped stream carries metadata."""
        for stream in list(self._open.values()):
            if stream.reply.request_id == reply.request_id and stream.reply.part < reply.part:
                await self._stop(stream.reply, stream, "")

    async def _call_stop(self, channel: str, call: Call) -> None:
        try:
            await self._calls.make("chat.stopStream", channel, call)
        except Gone:
            raise
        except Rejected as error:  # the text follows in an edit
            if code_of(error.__cause__ or error) not in _ENDED:
                log.warning("A Slack stream could not be stopped: %s", error)

    async def _open_stream(self, reply: Reply, text: str) -> OpenStream:
        answer = await self._calls.make(
            "chat.startStream", reply.key.channel, lambda: self._call_start(reply, text), posting=True
        )
        return OpenStream(reply, str(answer["ts"]), text, monotonic())

    async def _call_start(self, reply: Reply, text: str) -> AsyncSlackResponse:
        recipient: dict[str, str] = {}
        if not is_private(reply.key.channel):
            team = await self.team_of(reply.asker.id) if self.team_of else ""
            recipient = {"recipient_user_id": reply.asker.id, "recipient_team_id": team or self._identity().team_id}
        buttons = blocks.buttons(reply, feedback=False)
        chunks = [*([BlocksChunk(blocks=buttons)] if buttons else []), *_chunks(text)]
        return await self._web.chat_startStream(
            channel=reply.key.channel, thread_ts=reply.key.thread, chunks=chunks, **recipient
        )

    def _may_start(self, reply: Reply) -> bool:
        return self._calls.rate_limits.available("chat.startStream", reply.key.channel)


def _chunks(text: str) -> list[Chunk]:
    return [MarkdownTextChunk(text=text)] if text else []


def _without_half_entity(text: str) -> str:
    """A text without an incomplete entity at its end."""
    return text[: safe_cut(text, len(text))]
