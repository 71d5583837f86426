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

from adapters.discord.commands import Desk
from adapters.discord.context import ContextFetcher
from adapters.discord.events import EventTranslator
from adapters.discord.intake import Intake
from adapters.discord.pace import KEPT, Pace
from adapters.discord.posting import NOBODY
from bot.adapter import Core
from bot.config import Settings
from bot.errors import RetryLater

log = logging.getLogger(__name__)

PATIENCE_S = 20.0
"""The longest wait before an IDENTIFY on an open connection; a longer one ends this life first."""
PRESENCE_S = 20.0
LONGEST_WINDOW_S = 600.0
"""discord.py refuses every call of a bucket whose window ends later than this, even while calls are left in it (opening
threads has a window of five minutes), so this is longer than any that we meet."""
VITAL = ("READY", "RESUMED")
"""Events without which there is no session."""
WRITTEN = ("MESSAGE_CREATE", "MESSAGE_UPDATE")
"""Events with what somebody wrote."""

Parse = Callable[[Any], None]
"""What discord.py makes of an event. Any: whatever the event brings."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What Discord allows: to read every message, and to start so many more sessions until the count begins anew."""

    reads_all: bool
    sessions: int
    resets_in_s: float


@dataclass(frozen=True, slots=True)
class Line:
    """How to connect. Without a frame for `heartbeat_s` the line counts as dead; `guilds_s` is how long to wait for one
    more server before a session counts as complete. `trace` watches the requests."""

    connector: aiohttp.BaseConnector | None
    proxy: str | None
    heartbeat_s: float
    guilds_s: float
    trace: aiohttp.TraceConfig


class TooSoon(Exception):
    """No session may be started yet."""


class HouseClient(discord.Client):
    """See the module."""

    def __init__(
        self,
        settings: Settings,
        core: Core,
        intake: Intake,
        pace: Pace,
        allowed: Allowed,
        line: Line,
    ) -> None:
        super().__init__(
            intents=discord.Intents(
                guilds=True, guild_messages=True, dm_messages=True, message_content=allowed.reads_all
            ),
            connector=line.connector,
            proxy=line.proxy,
            allowed_mentions=NOBODY,
            max_messages=None,
            member_cache_flags=discord.MemberCacheFlags.none(),
            chunk_guilds_at_startup=False,
            guild_ready_timeout=line.guilds_s,
            heartbeat_timeout=line.heartbeat_s,
            max_ratelimit_timeout=LONGEST_WINDOW_S,
            http_trace=line.trace,
        )
        parsers = self._connection.parsers
        parsers.update({event: _forgiving(event, parse) for event, parse in parsers.items() if event not in VITAL})
        self._core, self._intake, self._pace = core, intake, pace
        self._sessions = allowed.sessions - KEPT
        translator = EventTranslator(settings, self, reads_all=allowed.reads_all)
        self.context = ContextFetcher(settings, self, core, translator)
        self._desk = Desk(self, core, self.context)
        self._tree = _Tree(self)
        self._desk.furnish(self._tree)
        self._synced = False
        self._shown = ""
        self._settled = asyncio.Event()  # complete, or closed

    async def complete(self) -> None:
        """Wait until all servers are known. Raises RetryLater if the connection ends before that."""
        await self._settled.wait()
        if self.is_closed():
            raise RetryLater(1.0, "Discord is not connected")

    async def close(self) -> None:
        """End this life."""
        self._settled.set()
        await super().close()

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> None:  # Any: whatever an event brings
        """Hand on an event; discord.py trips over one that comes after the end, such as a late 'ready'."""
        if not self.is_closed():
            super().dispatch(event, *args, **kwargs)

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Keep to the pace, however often Discord ends the session."""
        wait = self._pace.session_in()
        if wait > PATIENCE_S or self._sessions <= 0:
            raise TooSoon
        await asyncio.sleep(wait)
        self._sessions -= 1
        self._pace.started()

    async def on_connect(self) -> None:
        """A new session, so what was said since the last one has to be read back: from before what comes live now.

        The servers come after this; `fetch_since` waits for them.
        """
        self._settled.clear()
        with self._intake.errand():
            await self._intake.catch_up()

    async def on_ready(self) -> None:
        """The session is complete."""
        self._shown = ""
        self._settled.set()
        self._pace.well()
        await self.show_presence()
        await self._sync()

    async def _sync(self) -> None:
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
                await self._desk.press(interaction)

    async def on_guild_channel_update(self, before: discord.abc.GuildChannel, after: discord.abc.GuildChannel) -> None:
        """Its permissions may be others now."""
        self._intake.posting.reopen(after.id)

    async def on_error(self, event_method: str, /, *args: object, **kwargs: object) -> None:
        """A bug of ours: one event is lost, the others go on."""
        log.exception("An event of Discord's (%s) could not be handled.", event_method)

    async def keep_presence(self) -> None:
        """Show what is going on, for ever."""
        while True:
            await asyncio.sleep(PRESENCE_S)
            await self.show_presence()

    async def show_presence(self) -> None:
        """Show what is going on, if that has changed."""
        text = self._core.presence()[:128]
        if text == self._shown or not self.is_ready():
            return
        with contextlib.suppress(discord.DiscordException, aiohttp.ClientError, OSError, RuntimeError):
            await self.change_presence(activity=discord.CustomActivity(text))
            self._shown = text


def _forgiving(event: str, parse: Parse) -> Parse:
    """`parse`, but an event that it cannot read is passed over; discord.py would end the session with it, again and
    again for as long as somebody can make such events."""

    def read(data: Any) -> None:  # Any: as in Parse
        try:
            if event in WRITTEN:
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


class _Tree(app_commands.CommandTree[HouseClient]):
    async def on_error(
        self, interaction: discord.Interaction[HouseClient], error: app_commands.AppCommandError
    ) -> None:
        """A command of an older version, or a bug of ours."""
        log.error("A command could not be handled: %s", error, exc_info=error.__cause__)
