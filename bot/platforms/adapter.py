"""What an adapter offers to the service, and what the service offers to an adapter. Nothing here does anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from bot.config.settings import Settings
from bot.types.messages import Choice, ConversationKey, Event, IncomingMessage, Outcome, Reply


class Dialect(StrEnum):
    """What a platform makes of Markdown."""

    MARKDOWN = "markdown"  # all of it
    DISCORD = "discord"  # no tables
    SLACK = "slack"  # all of it, with & < > escaped: between < and > stand its mentions


@dataclass(frozen=True, slots=True)
class Limits:
    """What a platform can show.

    max_chars: characters in one message. min_interval_s: the least time between two updates of one reply. appends: in
    threads the platform only takes newly committed text, and shows waiting in its own way (status). buttons: it can
    show them. cursor: what stands at the end of a text that is still being written. prefix: how a command begins.
    dialect: how text must be written. attach_over: answers longer than so many characters come as a file (0: never).
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
    """The service, as an adapter sees it."""

    async def handle(self, event: Event) -> Outcome:
        """Take one event. When this returns, the event is on disk: acknowledge to the platform only then.

        Raises StorageError if it could not be stored: do not acknowledge, the platform will deliver it again.
        """
        ...

    def choices(self, command: str, prefix: str) -> Sequence[Choice]:
        """Completions of a command's first option, from memory; at most 25."""
        ...

    async def following(self, key: ConversationKey) -> bool:
        """Whether the bot takes part in this conversation already."""
        ...

    async def catch_up(self, platform: str) -> None:
        """Read back and handle what was said while the platform could not tell us; call it after each new session.

        Calls the adapter's fetch_since for every channel in which something was heard before.
        """
        ...

    def presence(self) -> str:
        """One line about this moment: 'phi-4 · 38 tokens/s · 2 waiting'."""
        ...


class Adapter(Protocol):
    """One platform. All coroutines run on the service's event loop and never block it."""

    platform: str

    @property
    def limits(self) -> Limits:
        """What the platform can show, as far as is known now."""
        ...

    async def run(self, core: Core) -> None:
        """Connect, hand every event to core.handle, reconnect for ever; returns after close().

        Raises FatalAdapterError when the platform refuses us for good.
        """
        ...

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """The messages of a channel after `after_id`, oldest first, at most `limit`."""
        ...

    async def post(self, reply: Reply) -> str:
        """Show a reply for the first time; the platform's id of the new message.

        Raises RetryLater (nothing was posted), Rejected (never will be) or OutcomeUnknown (use find_posted).
        """
        ...

    async def find_posted(self, reply: Reply) -> str | None:
        """The platform's id of a reply that may have been posted by an earlier, interrupted call."""
        ...

    async def update(self, reply: Reply) -> None:
        """Bring a posted reply (reply.platform_id) up to date. Raises RetryLater, Rejected or Gone."""
        ...

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Say that something is going on ('' = just typing); it goes away by itself, or at once with None."""
        ...

    async def close(self) -> None:
        """Disconnect; run() returns soon after."""
        ...


@runtime_checkable
class Watchable(Protocol):
    """An adapter that can tell how its platform is doing, for the metrics and the status page."""

    @property
    def connected(self) -> bool:
        """Whether there is a session at this moment."""
        ...

    @property
    def rate_limited(self) -> int:
        """How often the platform answered 429, those included that the platform's library waits for by itself."""
        ...


@runtime_checkable
class Reloading(Protocol):
    """An adapter that can go by other settings while it runs; what they say of its platform's tokens is as before."""

    def reload(self, settings: Settings) -> None:
        """Go by these from now on."""
        ...
