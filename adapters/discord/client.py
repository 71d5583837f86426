"""discord.py's client for one life of the connection: it hears, and hands on what it hears.

In: the gateway's events. Out: calls of the intake (messages) and the desk (commands and buttons). A life ends with the
client's `start`, whatever ended it; the next one is the gateway's to begin.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import discord
from discord import app_commands

from adapters.discord.commands import InteractionHandlers
from adapters.discord.context import ContextFetcher
from adapters.discord.events import EventTranslator
from adapters.discord.intake import Intake
from adapters.discord.pace import RESERVED_SESSIONS, ReconnectBackoff
from adapters.discord.posting import NO_MENTIONS
from bot.adapter import Core
from bot.config import Settings
from bot.errors import RetryLater

log = logging.getLogger(__name__)

MAX_IDENTIFY_WAIT_S = 20.0
"""The longest wait before an IDENTIFY on an open connection; a longer one ends this life first."""
PRESENCE_INTERVAL_S = 20.0
MAX_RATE_LIMIT_S = 600.0
"""discord.py refuses every call of a bucket whose window ends later than this, even while calls are left in it (opening
threads has a window of five minutes), so this is longer than any that we meet."""
SESSION_EVENTS = ("READY", "RESUMED")
"""Events without which there is no session."""
MESSAGE_EVENTS = ("MESSAGE_CREATE", "MESSAGE_UPDATE")
"""Events with what somebody wrote."""

Parser = Callable[[Any], None]
"""What discord.py makes of an event. Any: whatever the event brings."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What Discord allows: to read every message, and to start so many more sessions until the count begins anew."""

    reads_all: bool
    remaining: int
    resets_in_s: float


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect. Without a frame for `heartbeat_s` the line counts as dead; `guilds_s` is how long to wait for one
    more server before a session counts as complete. `trace` watches the requests."""

    connector: aiohttp.BaseConnector | None
    proxy: str | None
    idle_timeout_s: float
    guilds_s: float
    trace: aiohttp.TraceConfig


class SessionLimitReached(Exception):
    """No session may be started yet."""


class GatewayClient(discord.Client):
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        core: Core,
        intake: Intake,
        backoff: ReconnectBackoff,
        limits: SessionLimits,
        options: ConnectionOptions,
    ) -> None:
        super().__init__(
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
        self._core, self._intake, self._backoff = core, intake, backoff
        self._sessions_left = limits.remaining - RESERVED_SESSIONS
        translator = EventTranslator(settings, self, reads_all=limits.reads_all)
        self.context = ContextFetcher(settings, self, core, translator)
        self._interactions = InteractionHandlers(self, core, self.context)
        self._tree = _CommandTree(self)
        self._interactions.register(self._tree)
        self._synced = False
        self._shown_presence = ""
        self._complete_or_closed = asyncio.Event()  # complete, or closed

    async def wait_complete(self) -> None:
        """Wait until all servers are known. Raises RetryLater if the connection ends before that."""
        await self._complete_or_closed.wait()
        if self.is_closed():
            raise RetryLater(1.0, "Discord is not connected")

    async def close(self) -> None:
        """End this life."""
        self._complete_or_closed.set()
        await super().close()

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> None:  # Any: whatever an event brings
        """Hand on an event; discord.py trips over one that comes after the end, such as a late 'ready'."""
        if not self.is_closed():
            super().dispatch(event, *args, **kwargs)

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Keep to the pace, however often Discord ends the session."""
        wait = self._backoff.seconds_to_session()
        if wait > MAX_IDENTIFY_WAIT_S or self._sessions_left <= 0:
            raise SessionLimitReached
        await asyncio.sleep(wait)
        self._sessions_left -= 1
        self._backoff.record_session()

    async def on_connect(self) -> None:
        """A new session, so what was said since the last one has to be read back: from before what comes live now.

        The servers come after this; `fetch_since` waits for them.
        """
        self._complete_or_closed.clear()
        with self._intake.errand():
            await self._intake.catch_up()

    async def on_ready(self) -> None:
        """The session is complete."""
        self._shown_presence = ""
        self._complete_or_closed.set()
        self._backoff.reset()
        await self.show_presence()
        await self._sync_commands()

    async def _sync_commands(self) -> None:
        """Tell Discord which commands there are, once in a life."""
        if self._synced:
            return
        try:
            await self._tree.sync()
            self._synced = True
        except (discord.DiscordException, aiohttp.ClientError, OSError) as error:
            log.warning("The slash commands could not be registered with Discord: %s", error)

    async def on_message(self, message: discord.Message) -> None:
        """Somebody said something."""
        with self._intake.errand():
            await self._intake.message(self.context, message)

    async def on_raw_message_edit(self, event: discord.RawMessageUpdateEvent) -> None:
        """A message was changed, by its author or by Discord."""
        with self._intake.errand():
            await self._intake.edit(self.context, event.message)

    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        """A message is gone."""
        with self._intake.errand():
            await self._intake.deletion(self, self.context, event.channel_id, event.guild_id, [event.message_id])

    async def on_raw_bulk_message_delete(self, event: discord.RawBulkMessageDeleteEvent) -> None:
        """Messages are gone."""
        with self._intake.errand():
            await self._intake.deletion(self, self.context, event.channel_id, event.guild_id, sorted(event.message_ids))

    async def on_interaction(self, interaction: discord.Interaction[discord.Client]) -> None:
        """A button was pressed (commands come through the tree)."""
        if interaction.type is discord.InteractionType.component:
            with self._intake.errand():
                await self._interactions.on_button(interaction)

    async def on_guild_channel_update(self, before: discord.abc.GuildChannel, after: discord.abc.GuildChannel) -> None:
        """Its permissions may be others now."""
        self._intake.posting.clear_forbidden(after.id)

    async def on_error(self, event_method: str, /, *args: object, **kwargs: object) -> None:
        """A bug of ours: one event is lost, the others go on."""
        log.exception("An event of Discord's (%s) could not be handled.", event_method)

    async def keep_presence(self) -> None:
        """Show what is going on, for ever."""
        while True:
            await asyncio.sleep(PRESENCE_INTERVAL_S)
            await self.show_presence()

    async def show_presence(self) -> None:
        """Show what is going on, if that has changed."""
        text = self._core.presence()[:128]
        if text == self._shown_presence or not self.is_ready():
            return
        with contextlib.suppress(discord.DiscordException, aiohttp.ClientError, OSError, RuntimeError):
            await self.change_presence(activity=discord.CustomActivity(text))
            self._shown_presence = text


def _skip_malformed(event: str, parse: Parser) -> Parser:
    """`parse`, but an event that it cannot read is passed over; discord.py would end the session with it, again and
    again for as long as somebody can make such events."""

    def read(data: Any) -> None:  # Any: as in Parse
        try:
            if event in MESSAGE_EVENTS:
                _check_texts(data)
            parse(data)
        except Exception as error:
            log.error("An event of Discord's (%s) cannot be read (%s); it is passed over.", event, type(error).__name__)

    return read


def _check_texts(message: Any) -> None:  # Any: as in Parse
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


class _CommandTree(app_commands.CommandTree[GatewayClient]):
    async def on_error(
        self, interaction: discord.Interaction[GatewayClient], error: app_commands.AppCommandError
    ) -> None:
        """A command of an older version, or a bug of ours."""
        log.error("A command could not be handled: %s", error, exc_info=error.__cause__)
