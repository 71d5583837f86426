"""The Discord adapter: translates discord.py's events into ours, and shows replies as messages that are edited.

`gateway` logs in and keeps each `shard` connected through a `client`; `events` translates its events,
`message_context` fetches what they lack, and `intake` hands them to the core. `slash_commands`, `command_options` and
`components` handle slash commands, menus and buttons. `posting` and `posted_messages` write and find messages.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import discord

from adapters.discord.channels import PLATFORM
from adapters.discord.gateway.gateway import ConnectorFactory, Gateway, GatewayTiming
from adapters.discord.inbound.history import read_back
from adapters.discord.outbound.posting import MAX_CHARS
from bot.config.settings import Settings
from bot.platforms.adapter import Core, Dialect, Limits
from bot.platforms.turns import Always, Turns
from bot.types.messages import ConversationKey, IncomingMessage, Reply


class DiscordAdapter:
    """One bot on Discord. `connect` makes the connector of each connection, None for the default."""

    platform = PLATFORM

    def __init__(
        self, settings: Settings, connect: ConnectorFactory | None = None, timing: GatewayTiming | None = None
    ) -> None:
        self.limits = Limits(
            max_chars=MAX_CHARS,
            min_interval_s=1.0,
            cursor=" ▌",
            prefix="/",
            dialect=Dialect.DISCORD,
            attach_over=settings.attach_over,
        )
        self._catchup_age = timedelta(seconds=settings.catchup_age)
        self._gateway = Gateway(settings, connect, timing or GatewayTiming())
        self._posting = self._gateway.posting

    @property
    def connected(self) -> bool:
        """Whether there is a session at this moment; without a turn, whether messages can be posted."""
        return self._gateway.connected

    @property
    def rate_limited(self) -> int:
        """How often Discord answered 429, including those that discord.py handles by itself."""
        return self._gateway.rate_limited

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on; answers in progress keep the old ones."""
        self.limits = replace(self.limits, attach_over=settings.attach_over)
        self._catchup_age = timedelta(seconds=settings.catchup_age)
        self._gateway.reload(settings)

    async def run(self, core: Core, turns: Turns | None = None) -> None:
        """Stay connected until close(). Raises FatalAdapterError where reconnecting cannot help.

        The gateway is connected while this host has its turn; without it, messages are posted all the same.
        """
        await self._gateway.run(core, turns or Always())

    async def close(self) -> None:
        """Disconnect; run() returns soon after."""
        await self._gateway.close()

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """The messages of people in a channel after `after_id`, oldest first. Raises RetryLater, Rejected or Gone.

        Messages older than INHOUSE_CATCHUP_AGE are not read, so that they do not count towards the limit.
        """
        client = self._gateway.reading_client(key)
        if client is None:
            return []
        await client.wait_complete()
        oldest = discord.utils.time_snowflake(discord.utils.utcnow() - self._catchup_age)
        return await read_back(client, client.context, key, max(int(after_id), oldest), limit)

    def id_at(self, seconds: float) -> str:
        """The smallest id of a message that is sent at a Unix time."""
        return str(discord.utils.time_snowflake(datetime.fromtimestamp(seconds, UTC)))

    async def post(self, reply: Reply) -> str:
        """Post a reply; returns its message id."""
        return await self._posting.post(reply)

    async def find_posted(self, reply: Reply) -> str | None:
        """The message id of a reply that an interrupted call may have posted."""
        return await self._posting.find_posted(reply)

    async def update(self, reply: Reply) -> None:
        """Update a posted reply."""
        await self._posting.update(reply)

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Show the typing indicator for ''; a text is not shown, since waiting is posted as a message."""
        if text == "":
            await self._posting.typing(key)
