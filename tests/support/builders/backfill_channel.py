"""Builds a scripted channel with a history, and a Backfill on real storage that reads it."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bot.config.settings import Settings
from bot.conversations.backfill import Backfill
from bot.models.catalog import Catalog
from bot.models.runtime_config import RuntimeConfig
from bot.storage import Storage
from bot.types.errors import QueueFull
from bot.types.messages import Accepted, ConversationKey, IncomingMessage, Outcome, Person
from tests.support.fakes.scripted_adapter import ScriptedAdapter

ANA = Person("ana", "Ana")
NUMBERS = itertools.count(1)


class Channel(ScriptedAdapter):
    """A platform with one or more channels."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__(0)
        self.keys = [ConversationKey("scripted", "", f"channel-{next(NUMBERS)}") for _ in range(channels)]
        self.said: list[IncomingMessage] = []
        self.fetched: list[ConversationKey] = []
        self.errors: dict[ConversationKey, list[Exception]] = {}

    def says(self, ago: float = 60.0, *, channel: int = 0, **more: object) -> IncomingMessage:
        """Adds a message by Ana; ids and times increase."""
        number = next(NUMBERS)
        event = IncomingMessage(
            self.keys[channel],
            str(number),
            ANA,
            f"text {number}",
            sent_at=time.time() - ago + number / 1e5,
            addressed=True,
        )
        self.said.append(replace(event, **more))  # type: ignore[arg-type]  # the fields of IncomingMessage
        return self.said[-1]

    def id_at(self, seconds: float) -> str:
        """The id of the last message before a time."""
        return f"{max((int(event.message_id) for event in self.said if event.sent_at < seconds), default=0)}"

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """Returns messages after an id, oldest first, as platforms do. Raises the channel's next scripted error, if
        any."""
        self.fetched.append(key)
        if errors := self.errors.get(key):
            raise errors.pop(0)
        here = [event for event in self.said if replace(event.key, thread="") == key]
        return [event for event in here if int(event.message_id) > int(after_id)][:limit]


@dataclass
class Listener:
    """Handles messages like the core does. `meanwhile` holds messages that arrive live during the backfill."""

    storage: Storage
    channel: Channel
    settings: Settings = field(default_factory=Settings)
    handled: list[str] = field(default_factory=list)
    meanwhile: list[IncomingMessage] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    full: dict[str, asyncio.Event] = field(default_factory=dict)  # ids of users without a place, until the event is set
    waits: asyncio.Event = field(default_factory=asyncio.Event)  # a backfill waits for such a user

    def __post_init__(self) -> None:
        self.backfill = Backfill(RuntimeConfig(self.settings, Catalog.of(self.settings)), self.storage)

    async def restarts(self) -> None:
        """Replaces the Backfill with a new one that loads only what is stored."""
        self.backfill = Backfill(RuntimeConfig(self.settings, Catalog.of(self.settings)), self.storage)
        await self.backfill.load([self.channel.platform])

    def hears(self, event: IncomingMessage) -> None:
        """Handles a message live and records it in the cursor."""
        self.handled.append(event.message_id)
        self.backfill.handled(event)

    async def reads_back(self) -> list[str]:
        """Runs a backfill, as a new session does; the ids that it handled, in order."""
        before = len(self.handled)
        await self.backfill.read_back(self.channel, self._handle, self._wait_for_place)
        return self.handled[before:]

    async def reads_again(self, since: float) -> list[str]:
        """Reads back what another host may have missed; the ids that it handled, in order."""
        before = len(self.handled)
        await self.backfill.read_again(self.channel, since, self._handle, self._wait_for_place)
        return self.handled[before:]

    async def _wait_for_place(self, event: IncomingMessage) -> None:
        if place := self.full.get(event.author.id):
            self.waits.set()
            await place.wait()
            self.full.pop(event.author.id, None)

    async def _handle(self, event: IncomingMessage) -> Outcome:
        while self.meanwhile:
            self.hears(self.meanwhile.pop())
        await self.backfill.save()
        if event.author.id in self.full:
            raise QueueFull(f"{event.author.name} has enough questions waiting.")
        if self.errors:
            self.backfill.not_stored(event)
            raise self.errors.pop(0)
        self.hears(event)
        return Accepted()
