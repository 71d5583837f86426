"""The Discord adapter: discord.py's events become ours, replies become messages that are edited while they grow.

What is where: `gateway` keeps the connection, `client` hears, `events` and `files` translate, `intake` hands over,
`commands`, `options` and `components` are slash commands, menus and buttons, `posting`, `places` and `finding` write.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import discord

from adapters.discord.gateway import ConnectorFactory, Gateway, GatewayTiming
from adapters.discord.places import PLATFORM
from adapters.discord.reading import read_back
from bot.adapter import Core, Dialect, Limits
from bot.config import Settings
from bot.messages import ConversationKey, IncomingMessage, Reply


class DiscordAdapter:
    """One bot on Discord. `connect` makes the connector of each connection, where the default one will not do."""

    platform = PLATFORM

    def __init__(
        self, settings: Settings, connect: ConnectorFactory | None = None, timing: GatewayTiming | None = None
    ) -> None:
        self.limits = Limits(
            max_chars=2000,  # code points, which is what Discord counts
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
        """Whether there is a session at this moment."""
        return self._gateway.connected

    @property
    def rate_limited(self) -> int:
        """How often Discord answered 429, those included that discord.py waits for by itself."""
        return self._gateway.rate_limited

    def reload(self, settings: Settings) -> None:
        """Go by these from now on; answers that are being written keep to the old ones."""
        self.limits = replace(self.limits, attach_over=settings.attach_over)
        self._catchup_age = timedelta(seconds=settings.catchup_age)
        self._gateway.reload(settings)

    async def run(self, core: Core) -> None:
        """Connect and stay connected until close(). Raises FatalAdapterError when Discord refuses us for good."""
        await self._gateway.run(core)

    async def close(self) -> None:
        """Disconnect; run() returns soon after."""
        await self._gateway.close()

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """What people said in a channel after `after_id`, oldest first. Raises RetryLater, Rejected or Gone.

        After a long outage it begins where INHOUSE_CATCHUP_AGE does, so that what is too old uses up none of the limit.
        """
        client = self._gateway.client()
        await client.wait_complete()
        oldest = discord.utils.time_snowflake(discord.utils.utcnow() - self._catchup_age)
        return await read_back(client, client.context, key, max(int(after_id), oldest), limit)

    async def post(self, reply: Reply) -> str:
        """Show a reply for the first time."""
        return await self._posting.post(reply)

    async def find_posted(self, reply: Reply) -> str | None:
        """The message of a reply that an earlier, interrupted call may have posted."""
        return await self._posting.find_posted(reply)

    async def update(self, reply: Reply) -> None:
        """Bring a message up to date."""
        await self._posting.update(reply)

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Show the typing indicator; what is being waited for comes as a post, so it is not shown here."""
        if text == "":
            await self._posting.typing(key)
