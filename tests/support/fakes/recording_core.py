"""A Core that records events and returns outcomes that the test chooses."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bot.types.messages import (
    Accepted,
    Choice,
    ConversationKey,
    Event,
    IncomingCommand,
    IncomingMessage,
    Outcome,
)

E = TypeVar("E")


@dataclass(slots=True)
class RecordingCore:
    """`says` makes the outcome of an event, once `open` is set; `followed` are conversations that the bot takes part
    in."""

    says: Callable[[Event], Outcome] = lambda event: Accepted("request")
    events: list[Event] = field(default_factory=list)
    followed: set[ConversationKey] = field(default_factory=set)
    caught_up: int = 0
    line: str = "small · idle"
    offered: list[Choice] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def handle(self, event: Event) -> Outcome:
        """Records the event."""
        await self.open.wait()
        outcome = self.says(event)
        self.events.append(event)
        self.heard.set()
        return outcome

    def choices(self, command: str, prefix: str) -> Sequence[Choice]:
        """The choices of `offered` that start with the prefix."""
        return [choice for choice in self.offered if choice.value.startswith(prefix)]

    async def following(self, key: ConversationKey) -> bool:
        """Whether `followed` contains the conversation."""
        return key in self.followed

    async def catch_up(self, platform: str) -> None:
        """Counts the calls."""
        self.caught_up += 1

    def presence(self) -> str:
        """The presence text that the test set."""
        return self.line

    async def got(self, kind: type[E], number: int = 1) -> list[E]:
        """Waits for `number` events of a kind; all events of that kind."""
        async with asyncio.timeout(5):
            while True:
                found: list[E] = [event for event in self.events if isinstance(event, kind)]
                if len(found) >= number:
                    return found
                self.heard.clear()
                await self.heard.wait()

    async def message(self, number: int = 1) -> IncomingMessage:
        """Waits for the `number`th message."""
        return (await self.got(IncomingMessage, number))[number - 1]

    async def command(self, number: int = 1) -> IncomingCommand:
        """Waits for the `number`th command."""
        return (await self.got(IncomingCommand, number))[number - 1]
