"""Both platforms with the real service, for the faults that they share.

async def test_it(tmp_path: Path, platform: Platform) -> None:  # runs once on each
    async with platform.open(tmp_path) as house:
        question = await house.ana.says(house.general, "hello", mention=True)
        await platform.answered_once(house, question)
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.builders import discord_service, slack_service
from tests.support.fakes.discord import Can, FakeDiscord
from tests.support.fakes.slack_server import FakeSlack

# The houses of the two platforms are used in the same way, but no type is common to both: hence Any, here and in tests.
House = Any
Message = Any
Channel = Any


@dataclass(frozen=True, slots=True)
class Platform:
    """One of them, and its fake. `answered_once` is that of its house."""

    name: str
    server: Any
    answered_once: Callable[..., Awaitable[None]]
    _open: Callable[..., AbstractAsyncContextManager[House]]

    def open(self, root: Path, **more: Any) -> AbstractAsyncContextManager[House]:  # Any: whatever a house takes
        """A service that lives in `root` until the block ends."""
        return self._open(root, self.server, **more)

    def channel(self, name: str) -> Channel:
        """One more channel."""
        return self.server.text_channel(name) if self.name == "discord" else self.server.channel(name)

    def takes_all_calls(self) -> None:
        """No limit but those that a test sets: what is said in seconds here takes minutes there."""
        if self.name == "slack":
            self.server.limits.strict = False
            return
        messages = "/channels/{channel_id}/messages"
        for route in (f"POST {messages}", f"GET {messages}", f"PATCH {messages}/{{message_id}}"):
            self.server.limits.set(route, 1000, 1)

    def limits_channel(self, channel: Channel, seconds: float) -> None:
        """Nothing may be posted in a channel for so long."""
        if self.name == "discord":
            self.server.limits.exhaust("POST /channels/{channel_id}/messages", channel.id, seconds)
        else:
            for method in ("chat.postMessage", "chat.startStream"):
                self.server.limits.exhaust(method, seconds, channel.id)

    def limits_everything(self, seconds: float) -> None:
        """No call at all is allowed for so long."""
        if self.name == "discord":
            self.server.limits.pause_all(seconds)
        else:
            self.server.limits.exhaust("", seconds)

    def deletes_channel(self, channel: Channel) -> None:
        """A channel is gone."""
        if self.name == "discord":
            self.server.delete_channel(channel)
        else:
            channel.deleted = True

    def forbids_writing(self, channel: Channel) -> None:
        """The bot may not write in a channel."""
        if self.name == "discord":
            channel.deny(Can.SEND_MESSAGES)
        else:
            channel.read_only = True

    async def is_told_late(self, say: Callable[[], Awaitable[Message]]) -> Message:
        """What somebody says, of which the bot hears only when it is told of it again."""
        world = self.server._world
        emit, world.emit = world.emit, lambda *_: None
        try:
            return await say()
        finally:
            world.emit = emit

    def tells(self, message: Message) -> None:
        """The bot hears of a message."""
        if self.name == "discord":
            self.server.redeliver(message)
        else:
            self.server._world.tell_message(message)


async def only_asked(house: House, *texts: str) -> None:
    """The engine was asked these and nothing else: what was to follow has begun once a later question is answered."""
    server = house.server
    elsewhere = server.text_channel("elsewhere") if isinstance(server, FakeDiscord) else server.channel("elsewhere")
    await house.answer_to(await house.ben.says(elsewhere, "anything else?", mention=True))
    assert sorted(house.engine.questions()) == sorted([*texts, "anything else?"])


@asynccontextmanager
async def started(name: str) -> AsyncIterator[Platform]:
    """The platform of that name."""
    if name == "discord":
        async with FakeDiscord() as discord:
            yield Platform(name, discord, discord_service.answered_once, discord_service.open_house)
        return
    async with FakeSlack() as slack:
        yield Platform(name, slack, slack_service.answered_once, slack_service.open_house)
