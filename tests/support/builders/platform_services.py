"""Runs the real service on either platform, for the faults that both share.

async def test_it(tmp_path: Path, platform: Platform) -> None:  # runs once on each
    async with platform.open(tmp_path) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await platform.answered_once(setup, question)
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.builders import discord_service, slack_service
from tests.support.fakes.discord import Can, FakeDiscord
from tests.support.fakes.slack_server import FakeSlack

# Both builders' PlatformSetup classes have the same methods but no common type: hence Any, here and in tests.
PlatformSetup = Any
Message = Any
Channel = Any
Person = Any


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform and its fake. `answered_once` is the function of that name in its builder."""

    name: str
    server: Any
    answered_once: Callable[..., Awaitable[None]]
    _open: Callable[..., AbstractAsyncContextManager[PlatformSetup]]

    def open(self, root: Path, **more: Any) -> AbstractAsyncContextManager[PlatformSetup]:  # Any: for the builder
        """Runs a service in `root` until the block ends."""
        return self._open(root, self.server, **more)

    def channel(self, name: str) -> Channel:
        """Creates another channel."""
        return self.server.text_channel(name) if self.name == "discord" else self.server.channel(name)

    def manager(self, name: str) -> Person:
        """Creates a user who manages every channel."""
        return self.server.user(name, **({"can": Can.MANAGE_MESSAGES} if self.name == "discord" else {"admin": True}))

    def takes_all_calls(self) -> None:
        """Lifts the rate limits: a test posts in seconds what takes minutes in practice."""
        if self.name == "slack":
            self.server.limits.strict = False
            return
        messages = "/channels/{channel_id}/messages"
        for route in (f"POST {messages}", f"GET {messages}", f"PATCH {messages}/{{message_id}}"):
            self.server.limits.set(route, 1000, 1)

    def limits_channel(self, channel: Channel, seconds: float) -> None:
        """Rejects posts in a channel for some seconds."""
        if self.name == "discord":
            self.server.limits.exhaust("POST /channels/{channel_id}/messages", channel.id, seconds)
        else:
            for method in ("chat.postMessage", "chat.startStream"):
                self.server.limits.exhaust(method, seconds, channel.id)

    def limits_everything(self, seconds: float) -> None:
        """Rejects every call for some seconds."""
        if self.name == "discord":
            self.server.limits.pause_all(seconds)
        else:
            self.server.limits.exhaust("", seconds)

    def deletes_channel(self, channel: Channel) -> None:
        """Deletes a channel."""
        if self.name == "discord":
            self.server.delete_channel(channel)
        else:
            channel.deleted = True

    def forbids_writing(self, channel: Channel) -> None:
        """Forbids the bot to post in a channel."""
        if self.name == "discord":
            channel.deny(Can.SEND_MESSAGES)
        else:
            channel.read_only = True

    async def is_told_late(self, say: Callable[[], Awaitable[Message]]) -> Message:
        """Calls `say` without sending its event; `tells` delivers the event later."""
        platform = self.server.store
        emit, platform.emit = platform.emit, lambda *_: None
        try:
            return await say()
        finally:
            platform.emit = emit

    def tells(self, message: Message) -> None:
        """Delivers the event of a message."""
        if self.name == "discord":
            self.server.redeliver(message)
        else:
            self.server.store.tell_message(message)


async def only_asked(setup: PlatformSetup, *texts: str) -> None:
    """Asserts that the engine got these requests and no others; a later question shows that nothing else is queued."""
    server = setup.server
    elsewhere = server.text_channel("elsewhere") if isinstance(server, FakeDiscord) else server.channel("elsewhere")
    await setup.answer_to(await setup.ben.says(elsewhere, "anything else?", mention=True))
    assert sorted(setup.engine.questions()) == sorted([*texts, "anything else?"])


@asynccontextmanager
async def started(name: str) -> AsyncIterator[Platform]:
    """Starts the fake of that platform."""
    if name == "discord":
        async with FakeDiscord() as discord:
            yield Platform(name, discord, discord_service.answered_once, discord_service.run_discord_service)
        return
    async with FakeSlack() as slack:
        yield Platform(name, slack, slack_service.answered_once, slack_service.run_slack_service)
