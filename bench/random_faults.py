"""Injects random faults on the wire of both fake platforms, and counts them."""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable

from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.discord import Message as DiscordMessage
from tests.support.fakes.slack_server import FakeSlack
from tests.support.fakes.slack_server import Message as SlackMessage

POST = ("POST", "/channels/{channel_id}/messages")
EDIT = ("PATCH", "/channels/{channel_id}/messages/{message_id}")
FROZEN_S = 6.0

Deed = Callable[[], Awaitable[object] | object]


class RandomFaults:
    """Injects faults while `keep_up` runs. `done` counts them by name."""

    def __init__(self, discord: FakeDiscord, slack: FakeSlack, seed: int, gap_s: float) -> None:
        self._discord, self._slack = discord, slack
        self._random, self._gap_s = random.Random(seed), gap_s
        self.done: Counter[str] = Counter()
        self.recent_discord: deque[DiscordMessage] = deque(maxlen=20)
        self.recent_slack: deque[SlackMessage] = deque(maxlen=20)

    def _deeds(self) -> dict[str, Deed]:
        discord, slack = self._discord, self._slack
        return {
            "Discord: a post gets 502": lambda: discord.faults.answer(*POST, status=502),
            "Discord: an edit gets 503": lambda: discord.faults.answer(*EDIT, status=503, times=2),
            "Discord: the answer to a post is lost": lambda: discord.faults.drop(*POST, applied=True),
            "Discord: a post is lost": lambda: discord.faults.drop(*POST, applied=False),
            "Discord: the answer to an edit is lost": lambda: discord.faults.drop(*EDIT, applied=True),
            "Discord: a post takes 4 s": lambda: discord.faults.delay(*POST, seconds=4.0),
            "Discord: all calls are limited for 3 s": lambda: discord.limits.pause_all(3.0),
            "Discord: op 7": discord.gateway.reconnect,
            "Discord: op 9": discord.gateway.invalidate,
            "Discord: the line breaks": discord.gateway.abort,
            "Discord: a message comes twice": self._discord_again,
            "Slack: a post gets 502": lambda: slack.faults.answer("chat.postMessage", status=502),
            "Slack: the answer to a post is lost": lambda: slack.faults.drop("chat.postMessage", applied=True),
            "Slack: the answer to a stream's start is lost": lambda: slack.faults.drop(
                "chat.startStream", applied=True
            ),
            "Slack: an edit fails": lambda: slack.faults.refuse("chat.update", "internal_error"),
            "Slack: an append is lost": lambda: slack.faults.drop("chat.appendStream", applied=False),
            "Slack: edits are limited for 5 s": lambda: slack.limits.exhaust("chat.update", 5.0),
            "Slack: refresh_requested": lambda: slack.sockets.disconnect("refresh_requested", closes_after=5.0),
            "Slack: the line breaks": slack.sockets.kill,
            "Slack: the line is half open": self._slack_freezes,
            "Slack: a message comes twice": self._slack_again,
        }

    async def keep_up(self) -> None:
        """Injects one fault after another, forever."""
        deeds = self._deeds()
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._gap_s))
            name = self._random.choice(sorted(deeds))
            result = deeds[name]()
            if isinstance(result, Awaitable):
                await result
            self.done[name] += 1

    def _discord_again(self) -> None:
        if self.recent_discord:
            self._discord.redeliver(self._random.choice(self.recent_discord))

    def _slack_again(self) -> None:
        if self.recent_slack:
            self._slack.redeliver(self._random.choice(self.recent_slack))

    async def _slack_freezes(self) -> None:
        self._slack.sockets.freeze(True)
        await asyncio.sleep(FROZEN_S)
        self._slack.sockets.freeze(False)
