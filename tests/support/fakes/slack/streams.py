"""The methods chat.startStream, chat.appendStream and chat.stopStream.

A stream belongs to a thread and takes text or chunks. Slack closes it five minutes after its start.
"""

from tests.support.fakes.slack import checks, reading
from tests.support.fakes.slack.api import Handler
from tests.support.fakes.slack.asks import Ask, SlackError
from tests.support.fakes.slack.messages import reach, thread
from tests.support.fakes.slack.state import IM, Channel, Json, Message, Stream
from tests.support.fakes.slack.store import SlackStore


class StreamMethods:
    """The methods about streams. `enabled` False: the workspace has none. `block_chunks` False: text only."""

    def __init__(self, store: SlackStore) -> None:
        self._store = store
        self.enabled = True
        self.block_chunks = True

    def methods(self) -> dict[str, Handler]:
        """Method to handler."""
        return {"chat.startStream": self.start, "chat.appendStream": self.append, "chat.stopStream": self.stop}

    def start(self, ask: Ask) -> Json:
        """Starts a stream in a new message."""
        self._check()
        channel = reach(self._store, ask.required("channel"), to_write=True)
        parent = thread(channel, ask.required("thread_ts"))
        if channel.kind != IM:
            person = self._store.users.get(ask.text("recipient_user_id"))
            if person is None or not ask.text("recipient_team_id"):
                raise SlackError("missing_recipient_user_id" if person is None else "missing_recipient_team_id")
        stream = Stream(self._store.clock.now(), ask.text("recipient_user_id"))
        chunks = self._chunks(ask)
        message = self._store.add(channel, self._store.bot, "", thread_ts=parent, stream=stream)
        self._take(message, chunks)
        self._store.spoke(channel, parent)
        return {"channel": channel.id, "ts": message.ts}

    def append(self, ask: Ask) -> Json:
        """Appends to a stream."""
        self._check()
        channel, message = self._streamed(ask)
        self._take(message, self._chunks(ask))
        return {"channel": channel.id, "ts": message.ts}

    def stop(self, ask: Ask) -> Json:
        """Ends a stream, with blocks under the text and metadata."""
        self._check()
        channel, message = self._streamed(ask)
        chunks = self._chunks(ask)
        blocks = ask.items("blocks", "invalid_blocks_format") or []
        if blocks:
            checks.blocks(blocks)
        metadata = ask.mapping("metadata", "invalid_metadata_format")
        checks.metadata(metadata)
        self._take(message, chunks)
        assert message.stream is not None
        message.stream.stopped_by = "app"
        message.metadata = metadata
        message.versions[-1].posted = blocks
        message.versions[-1].pings += reading.mentions("", blocks)
        self._store.changes.tell()
        return {"channel": channel.id, "ts": message.ts}

    def stopped_by_person(self, message: Message) -> None:
        """Presses Slack's own stop button."""
        assert message.stream is not None
        message.stream.stopped_by = "user"
        self._store.changes.tell()

    def _check(self) -> None:
        if not self.enabled:
            raise SlackError("unknown_method")

    def _streamed(self, ask: Ask) -> tuple[Channel, Message]:
        channel = reach(self._store, ask.required("channel"))
        message = channel.find(ask.required("ts"))
        if message is None:
            raise SlackError("message_not_found")
        if message.stream is None or message.author is not self._store.bot:
            raise SlackError("message_not_in_streaming_state")
        if message.stream.stopped_by == "user":
            raise SlackError("stopped_by_user")
        if message.stream_closed(self._store.clock.now()):
            raise SlackError("message_not_in_streaming_state")
        return channel, message

    def _chunks(self, ask: Ask) -> list[Json]:
        text, chunks = ask.text("markdown_text"), ask.items("chunks", "invalid_chunks")
        if text and chunks:
            raise SlackError("markdown_text_conflict")
        if text:
            chunks = [{"type": "markdown_text", "text": text}]
        for chunk in chunks or []:
            if chunk.get("type") == "markdown_text":
                checks.markdown_text(str(chunk.get("text", "")))
            elif chunk.get("type") == "blocks" and self.block_chunks:
                checks.blocks(chunk.get("blocks") or [])
            else:
                raise SlackError("invalid_chunks")
        return chunks or []

    def _take(self, message: Message, chunks: list[Json]) -> None:
        assert message.stream is not None
        message.stream.chunks += chunks
        if chunks:
            # A mention may be split over two chunks.
            text = {"type": "markdown_text", "text": message.stream.text}
            others = [chunk for chunk in message.stream.chunks if chunk["type"] != "markdown_text"]
            message.versions[-1].pings = reading.mentions("", [], [text, *others])
        self._store.changes.tell()
