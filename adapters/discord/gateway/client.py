"""The discord.py client of one gateway connection: forwards messages to the intake and interactions to their handlers.

`shard` makes a new client when its connection ends.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import discord
from discord import app_commands

from adapters.discord.gateway.reconnect_backoff import ReconnectBackoff
from adapters.discord.gateway.rest import MAX_RATE_LIMIT_S, ConnectionOptions, SessionLimits
from adapters.discord.inbound.events import EventTranslator
from adapters.discord.inbound.intake import Intake
from adapters.discord.inbound.message_context import ContextFetcher
from adapters.discord.interactions.slash_commands import InteractionHandlers
from adapters.discord.outbound.posting import NO_MENTIONS
from bot.config.settings import Settings
from bot.platforms.adapter import Core
from bot.types.errors import RetryLater

log = logging.getLogger(__name__)

MAX_IDENTIFY_WAIT_S = 20.0
"""The longest wait before an IDENTIFY on an open connection, seconds; before a longer one the client is closed."""
PRESENCE_INTERVAL_S = 20.0
RESUME_S = 5.0
"""A connection that is lost for less counts as connected, seconds: Discord asks for a RESUME several times a day, which
takes a second or two and loses nothing, so no probe or alert should see it."""
SESSION_EVENTS = ("READY", "RESUMED")
"""Events that start or resume a session."""
MESSAGE_EVENTS = ("MESSAGE_CREATE", "MESSAGE_UPDATE")
"""Events with a message's text."""

Parser = Callable[[Any], None]
"""discord.py's parser of an event. Any: its JSON."""


class SessionLimitReached(Exception):
    """No session may be started yet."""


class GatewayClient(discord.Client):
    """Forwards the events of one connection.

    pause: keeps the IDENTIFYs of all hosts apart. may_answer: False while interactions are left to another host.
    shard: its index and the number of shards, if there are several.
    """

    def __init__(
        self,
        settings: Settings,
        core: Core,
        intake: Intake,
        backoff: ReconnectBackoff,
        limits: SessionLimits,
        options: ConnectionOptions,
        pause: Callable[[], Awaitable[None]],
        may_answer: Callable[[], bool],
        shard: tuple[int, int] | None,
    ) -> None:
        index, count = shard or (None, None)
        super().__init__(
            shard_id=index,
            shard_count=count,
            intents=discord.Intents(
                guilds=True, guild_messages=True, dm_messages=True, message_content=limits.reads_all
            ),
            connector=options.connector,
            proxy=options.proxy,
            allowed_mentions=NO_MENTIONS,
            max_messages=None,
            member_cache_flags=discord.MemberCacheFlags.none(),
            chunk_guilds_at_startup=False,
            guild_ready_timeout=options.guilds_s,
            heartbeat_timeout=options.idle_timeout_s,
            max_ratelimit_timeout=MAX_RATE_LIMIT_S,
            http_trace=options.trace,
        )
        parsers = self._connection.parsers
        parsers.update(
            {event: _skip_malformed(event, parse) for event, parse in parsers.items() if event not in SESSION_EVENTS}
        )
        self._core, self._intake, self._backoff, self._pause = core, intake, backoff, pause
        self.may_answer = may_answer
        self._sessions_left = limits.for_a_shard
        translator = EventTranslator(settings, self, reads_all=limits.reads_all)
        self.context = ContextFetcher(settings, self, core, translator)
        self._interactions = InteractionHandlers(core, self.context)
        self._tree = _CommandTree(self)
        self._interactions.register(self._tree)
        self._synced = False
        self._shown_presence = ""
        self._complete_or_closed = asyncio.Event()
        self.linked = False
        """Whether the gateway is connected; discord.py counts as ready while it connects again."""
        self._lost_at = -math.inf

    @property
    def connected(self) -> bool:
        """Whether there is a session, and its connection was not lost for longer than a RESUME takes."""
        return self.is_ready() and (self.linked or time.monotonic() - self._lost_at < RESUME_S)

    async def wait_complete(self) -> None:
        """Wait until all servers are known. Raises RetryLater if the connection ends first."""
        await self._complete_or_closed.wait()
        if self.is_closed():
            raise RetryLater(1.0, "Discord is not connected")

    async def close(self) -> None:
        """Close the connection for good."""
        self._complete_or_closed.set()
        await super().close()

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> None:  # Any: the event's arguments
        """Dispatch an event unless the client is closed, when discord.py fails on late ones such as 'ready'."""
        if not self.is_closed():
            super().dispatch(event, *args, **kwargs)

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Wait as the backoff says before each IDENTIFY. Raises SessionLimitReached instead of a long wait."""
        wait = self._backoff.seconds_to_session()
        if wait > MAX_IDENTIFY_WAIT_S or self._sessions_left <= 0:
            raise SessionLimitReached
        await asyncio.sleep(wait)
        try:
            async with asyncio.timeout(MAX_IDENTIFY_WAIT_S):
                await self._pause()
        except TimeoutError:
            raise SessionLimitReached from None
        self._sessions_left -= 1
        self._backoff.record_session()

    async def on_connect(self) -> None:
        """Read back missed messages at each new session, from before the first live event.

        The servers are received after this; `fetch_since` waits for them.
        """
        self.linked = True
        self._complete_or_closed.clear()
        with self._intake.tracked():
            await self._intake.catch_up()

    async def on_resumed(self) -> None:
        """A session goes on."""
        self.linked = True

    async def on_disconnect(self) -> None:
        """The connection is lost, or could not be made."""
        if self.linked:
            self._lost_at = time.monotonic()
        self.linked = False

    async def on_ready(self) -> None:
        """The session is complete: show the presence and register the commands."""
        self._shown_presence = ""
        self._complete_or_closed.set()
        self._backoff.reset()
        await self.show_presence()
        await self._sync_commands()

    async def _sync_commands(self) -> None:
        """Register the slash commands, once per client of the first shard."""
        if self._synced or self.shard_id:
            return
        try:
            await self._tree.sync()
            self._synced = True
        except (discord.DiscordException, aiohttp.ClientError, OSError) as error:
            log.warning("The slash commands could not be registered with Discord: %s", error)

    async def on_message(self, message: discord.Message) -> None:
        """A new message."""
        with self._intake.tracked():
            await self._intake.message(self.context, message)

    async def on_raw_message_edit(self, event: discord.RawMessageUpdateEvent) -> None:
        """An edited message; Discord adds previews by edits, too."""
        with self._intake.tracked():
            await self._intake.edit(self.context, event.message)

    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        """A deleted message."""
        with self._intake.tracked():
            await self._intake.deletion(self, self.context, event.channel_id, event.guild_id, [event.message_id])

    async def on_raw_bulk_message_delete(self, event: discord.RawBulkMessageDeleteEvent) -> None:
        """Deleted messages."""
        with self._intake.tracked():
            await self._intake.deletion(self, self.context, event.channel_id, event.guild_id, sorted(event.message_ids))

    async def on_interaction(self, interaction: discord.Interaction[discord.Client]) -> None:
        """A button press; commands come through the tree."""
        if interaction.type is discord.InteractionType.component and self.may_answer():
            with self._intake.tracked():
                await self._interactions.on_button(interaction)

    async def on_guild_channel_update(self, before: discord.abc.GuildChannel, after: discord.abc.GuildChannel) -> None:
        """The permissions of a channel may have changed."""
        self._intake.posting.clear_forbidden(after.id)

    async def on_error(self, event_method: str, /, *args: object, **kwargs: object) -> None:
        """Log an exception in a handler; only this event is lost."""
        log.exception("A Discord event (%s) could not be handled.", event_method)

    async def keep_presence(self) -> None:
        """Update the presence until cancelled."""
        while True:
            await asyncio.sleep(PRESENCE_INTERVAL_S)
            await self.show_presence()

    async def show_presence(self) -> None:
        """Show the presence if it has changed."""
        text = self._core.presence()[:128]
        if text == self._shown_presence or not self.is_ready():
            return
        with contextlib.suppress(discord.DiscordException, aiohttp.ClientError, OSError, RuntimeError):
            await self.change_presence(activity=discord.CustomActivity(text))
            self._shown_presence = text


def _skip_malformed(event: str, parse: Parser) -> Parser:
    """A parser that skips an event that `parse` cannot read, where discord.py would end the session."""

    def read(data: Any) -> None:  # Any: as in Parser
        try:
            if event in MESSAGE_EVENTS:
                _check_texts(data)
            parse(data)
        except Exception as error:
            log.error("A Discord event (%s) cannot be read (%s) and is skipped.", event, type(error).__name__)

    return read


def _check_texts(message: Any) -> None:  # Any: as in Parser
    """Raise TypeError where a text of a message or of its files is no string: discord.py takes these as they come."""
    texts = [message.get("content", "")]
    for file in message.get("attachments", ()):
        texts += [file["filename"], file["url"], file["proxy_url"], file.get("content_type") or ""]
        if not isinstance(file["size"], int):
            raise TypeError("the size of a file is no number")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is no string")
    if isinstance(message.get("referenced_message"), dict):
        _check_texts(message["referenced_message"])
    for snapshot in message.get("message_snapshots") or ():
        _check_texts(snapshot["message"])


class _CommandTree(app_commands.CommandTree[GatewayClient]):
    async def interaction_check(self, interaction: discord.Interaction[GatewayClient], /) -> bool:
        """Whether this host answers a command, or completes an option."""
        return self.client.may_answer()

    async def on_error(
        self, interaction: discord.Interaction[GatewayClient], error: app_commands.AppCommandError
    ) -> None:
        """Log a command that is not known (of an older version) or that failed."""
        log.error("A command could not be handled: %s", error, exc_info=error.__cause__)
