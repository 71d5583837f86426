"""Services on the two fake platforms for `adapter_machine`, with the faults of each platform.

A question is the platform's message that `says` returned.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.support.builders import discord_service, slack_service

SETTINGS = {"queue_size": 50, "per_user": 50}


class AdapterService(ABC):
    """A platform and the service on it."""

    _run_service: Any  # the builder of a service on this platform

    def __init__(self, server: Any) -> None:
        self.server, self._stack = server, AsyncExitStack()
        self.setup: Any = None

    @property
    def running(self) -> "asyncio.Task[None]":
        """The service's task."""
        running: asyncio.Task[None] = self.setup.running
        return running

    async def opens(self, root: Path, state: Path) -> None:
        """Starts a service."""
        opened = self._run_service(root, self.server, earlier=self.setup, state_dir=state, **SETTINGS)
        self.setup = await self._stack.enter_async_context(opened)

    async def closes(self) -> None:
        """Ends the service at once, without a drain."""
        await self._stack.aclose()

    async def says(self, text: str) -> Any:
        """Asks in the general channel."""
        return await self.setup.ana.says(self.setup.general, text, mention=True)

    async def deletes(self, question: Any) -> None:
        """Deletes a question."""
        await self.setup.ana.deletes(question)

    def comes_again(self, question: Any) -> None:
        """Delivers a question again."""
        self.server.redeliver(question)

    @abstractmethod
    def fail_a_call(self, number: int) -> None:
        """Makes a coming call fail; `number` selects the fault."""

    @abstractmethod
    def cut(self) -> None:
        """Cuts the connection for events."""

    @abstractmethod
    def messages(self) -> list[str]:
        """The texts of all messages of the bot."""

    @abstractmethod
    def finished(self) -> list[str]:
        """The texts of the final messages."""

    @abstractmethod
    def pinged(self) -> Sequence[object]:
        """The pings that the bot caused."""


class DiscordAdapterService(AdapterService):
    """DiscordAdapterService, with the real discord.py."""

    _run_service = staticmethod(discord_service.run_discord_service)
    POST, EDIT = "/channels/{channel_id}/messages", "/channels/{channel_id}/messages/{message_id}"

    def fail_a_call(self, number: int) -> None:
        faults = self.server.faults
        match number:
            case 0:
                self.server.limits.exhaust(f"POST {self.POST}", self.setup.general.id, 0.5)
            case 1 | 2:
                faults.drop("POST", self.POST, applied=number == 1)
            case 3 | 4:
                faults.answer("POST", self.POST, status=502, applied=number == 3)
            case 5:
                faults.drop("PATCH", self.EDIT, applied=True)

    def cut(self) -> None:
        self.server.gateway.reconnect()

    def messages(self) -> list[str]:
        return [message.content for message in self.setup.general.messages]

    def finished(self) -> list[str]:
        shown = self.setup.general.messages
        return [each.content for each in shown if discord_service.labels(each) & {"Regenerate", "Continue"}]

    def pinged(self) -> Sequence[object]:
        return [self.server.pings] if self.server.pings else []


class SlackAdapterService(AdapterService):
    """SlackAdapterService, with the real slack-bolt."""

    _run_service = staticmethod(slack_service.run_slack_service)

    def fail_a_call(self, number: int) -> None:
        faults = self.server.faults
        match number:
            case 0:
                self.server.limits.exhaust("chat.update", 0.5)
            case 1 | 2:
                faults.drop("chat.startStream", applied=number == 1)
            case 3:
                faults.answer("chat.startStream", status=502)
            case 4:
                faults.drop("chat.stopStream", applied=True)
            case 5:
                faults.drop("chat.update", applied=True)

    def cut(self) -> None:
        self.server.sockets.kill()

    def messages(self) -> list[str]:
        return [message.shown for message in self.setup.general.messages if message.subtype != "file_share"]

    def finished(self) -> list[str]:
        shown = self.setup.general.messages
        return [each.shown for each in shown if slack_service.DONE & set(each.labels)]

    def pinged(self) -> Sequence[object]:
        return [*self.server.pings, *self.server.unfurls]
