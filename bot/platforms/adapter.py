"""Protocols between adapters and the service: what each offers to the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from bot.config.settings import Settings
from bot.platforms.turns import Turns
from bot.types.messages import Choice, ConversationKey, Event, IncomingMessage, Outcome, Reply


class Dialect(StrEnum):
    """The Markdown dialect of a platform."""

    MARKDOWN = "markdown"  # full Markdown
    DISCORD = "discord"  # no tables
    SLACK = "slack"  # full Markdown with & < > escaped, because <...> marks mentions


@dataclass(frozen=True, slots=True)
class Limits:
    """Capabilities and limits of a platform.

    max_chars: characters per message. min_interval_s: minimum seconds between two updates of a reply. appends: threads
    only accept newly committed text, and waiting is shown by `status`. buttons: buttons are available. cursor: suffix
    of an unfinished answer. prefix: prefix of commands. dialect: Markdown dialect. attach_over: characters above which
    an answer is cut and attached as a file (0: never).
    """

    max_chars: int
    min_interval_s: float = 1.0
    appends: bool = False
    buttons: bool = True
    cursor: str = ""
    prefix: str = "!"
    dialect: Dialect = Dialect.MARKDOWN
    attach_over: int = 0


class Core(Protocol):
    """The service, as seen by an adapter."""

    async def handle(self, event: Event) -> Outcome:
        """Handle one event. The event is stored when this returns; acknowledge to the platform only then.

        Raises StorageError if it was not stored: do not acknowledge, so that the platform delivers it again.
        """
        ...

    def choices(self, command: str, prefix: str) -> Sequence[Choice]:
        """Completions of a command's first option, from memory; at most 25."""
        ...

    async def following(self, key: ConversationKey) -> bool:
        """Whether the bot already takes part in this conversation."""
        ...

    async def catch_up(self, platform: str) -> None:
        """Backfill messages that were sent while the platform was disconnected; call it after each new session.

        Calls the adapter's fetch_since for each channel that has a cursor.
        """
        ...

    def presence(self) -> str:
        """Status line for the platform's presence: 'phi-4 · 38 tokens/s · 2 waiting'."""
        ...


class Adapter(Protocol):
    """One platform. All coroutines run on the service's event loop and must not block it."""

    platform: str

    @property
    def limits(self) -> Limits:
        """Current capabilities and limits of the platform."""
        ...

    async def run(self, core: Core, turns: Turns | None = None) -> None:
        """Connect, pass every event to core.handle, and reconnect until close().

        turns: which of several hosts holds a connection that the platform should see once; None for a single host.
        Without a turn, posting, editing and finding messages work all the same.

        Raises FatalAdapterError on a permanent refusal by the platform.
        """
        ...

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """Fetch the messages of a channel after `after_id`, oldest first, at most `limit`."""
        ...

    def id_at(self, seconds: float) -> str:
        """The smallest id of a message that is sent at a Unix time, for `fetch_since`."""
        ...

    async def post(self, reply: Reply) -> str:
        """Post a reply; returns the platform's id of the new message.

        Raises RetryLater (not posted), Rejected (permanent) or OutcomeUnknown (call find_posted).
        """
        ...

    async def find_posted(self, reply: Reply) -> str | None:
        """Look for a reply that an interrupted call may have posted; returns its platform id or None."""
        ...

    async def update(self, reply: Reply) -> None:
        """Edit a posted reply (reply.platform_id). Raises RetryLater, Rejected or Gone."""
        ...

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Show a temporary status ('' = typing); it expires by itself, None clears it at once."""
        ...

    async def close(self) -> None:
        """Disconnect; run() returns soon after."""
        ...


@runtime_checkable
class Watchable(Protocol):
    """An adapter that reports its connection state for metrics and the status page."""

    @property
    def connected(self) -> bool:
        """Whether a session is open; on a host without a turn, whether messages can be posted."""
        ...

    @property
    def rate_limited(self) -> int:
        """Number of 429 responses, including those that the platform's library handles by itself."""
        ...


@runtime_checkable
class Reloading(Protocol):
    """An adapter that applies new settings while it runs, except its platform's tokens."""

    def reload(self, settings: Settings) -> None:
        """Apply new settings."""
        ...
