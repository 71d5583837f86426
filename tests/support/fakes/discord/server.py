"""The fake Discord server; the package's docstring shows how tests use it.

A TLS server on a free port that serves discord.com, the gateway and the CDN.
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from discord.gateway import KeepAliveHandler
from tests.support.fakes.discord.bits import Can
from tests.support.fakes.discord.commands import CommandRoutes
from tests.support.fakes.discord.gateway import Gateway
from tests.support.fakes.discord.interactions import InteractionRoutes
from tests.support.fakes.discord.log import Call, Frame
from tests.support.fakes.discord.messages import MessageRoutes
from tests.support.fakes.discord.people import Person
from tests.support.fakes.discord.pings import NO_PINGS, Pings
from tests.support.fakes.discord.places import PlaceRoutes
from tests.support.fakes.discord.rest import MAX_REQUEST, Rest
from tests.support.fakes.discord.state import Channel, Guild, Json, Message, Role, User, Version
from tests.support.fakes.discord.store import DiscordStore
from tests.support.fakes.tls import LOOPBACK, Authority, Loopback

HOSTS = ("discord.com", "gateway.discord.gg", "*.discord.gg", "cdn.discordapp.com")
TOKEN = "a-token-for-tests"


class FakeDiscord:
    """`async with FakeDiscord() as server: ...`; the first keywords are the portal's switches for privileged intents,
    `address` is the one on which it listens."""

    def __init__(
        self, *, message_content: bool = True, members: bool = False, token: str = TOKEN, address: str = LOOPBACK
    ) -> None:
        self.token = token
        self.address, self.port = address, 0
        self._authority = Authority(*HOSTS)
        self.store = DiscordStore()
        self.portal(message_content=message_content, members=members)
        self.clock = self.store.clock
        self.guild = self.store.new_guild("Workshop")
        self._rest = Rest(self.store, token)
        self.limits, self.faults, self.log = self._rest.limits, self._rest.faults, self._rest.log
        self.gateway = Gateway(self.store, self.log, token)
        self._commands = CommandRoutes(self.store)
        self._interactions = InteractionRoutes(self.store)
        self._runner: web.AppRunner | None = None

    # the server

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=MAX_REQUEST)
        places = PlaceRoutes(self.store, self.gateway.session_start)
        routes = MessageRoutes(self.store).routes() | places.routes()
        self._rest.mount(app, routes | self._commands.routes() | self._interactions.routes())
        app.router.add_get("/", self.gateway.serve)
        app.router.add_get("/attachments/{channel}/{file}/{name}", self._serve_file)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.address, 0, ssl_context=self._authority.server_context())
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults.release_all()
        await self.gateway.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        # discord.py sends heartbeats in threads; a thread that outlives its event loop would fail in a later test.
        for thread in threading.enumerate():
            if isinstance(thread, KeepAliveHandler):
                thread.stop()
                await asyncio.to_thread(thread.join, 5)

    def connector(self) -> aiohttp.TCPConnector:
        """A connector for `discord.Client(connector=...)` that leads every host name to this server and trusts its
        certificate."""
        return aiohttp.TCPConnector(
            limit=0, resolver=Loopback(self.port, self.address), ssl=self._authority.client_context()
        )

    def write_ca(self, path: Path) -> Path:
        """Writes the certificate authority for another process's SSL_CERT_FILE; the path."""
        return self._authority.write(path)

    async def _serve_file(self, request: web.Request) -> web.Response:
        """Serves a message's file like the CDN."""
        for channel in self.store.channels.values():
            for message in channel.history:
                for file in message.attachments:
                    if file.id == request.match_info["file"]:
                        return web.Response(body=file.data)
        return web.Response(status=404)

    # users and channels

    @property
    def bot(self) -> User:
        """The bot's own account."""
        return self.store.bot

    @property
    def application_id(self) -> str:
        """The application's id, equal to the account's as for most bots."""
        return self.store.bot.id

    def portal(self, *, message_content: bool, members: bool = False) -> None:
        """Enables or disables privileged intents, like the developer portal."""
        self.store.message_content, self.store.members = message_content, members

    def also_in(self, servers: int) -> None:
        """Sets the number of further servers that have the bot."""
        self.store.elsewhere = servers

    def new_guild(self, name: str) -> Guild:
        """Adds a server with the bot in it; call it before a client connects."""
        return self.store.new_guild(name)

    def user(self, name: str, *, can: Can = Can.NOTHING, bot: bool = False, guild: Guild | None = None) -> Person:
        """Adds a user to the server; `can` gives them a role with these permissions."""
        user, where = self.store.new_user(name, bot), guild or self.guild
        self.store.join(where, user)
        if can:
            where.has[user.id].add(self.store.new_role(where, f"role of {name}", can, mentionable=False).id)
        return Person(user, self.store, self._commands, self._interactions)

    def role(self, name: str, *, can: Can = Can.NOTHING, mentionable: bool = True) -> Role:
        """Adds a role of the server, for `person.gets(role)` and `role.mention`."""
        return self.store.new_role(self.guild, name, can, mentionable)

    def text_channel(self, name: str, guild: Guild | None = None) -> Channel:
        """Adds a text channel."""
        return self.store.new_channel(name, guild or self.guild)

    def thread(self, parent: Channel, name: str) -> Channel:
        """Adds a public thread that belongs to the server's owner."""
        return self.store.new_thread(parent, name, self.guild.owner)

    def dm(self, person: Person) -> Channel:
        """The direct-message channel between a user and the bot."""
        return self.store.dm(person.user)

    def channel(self, channel_id: str) -> Channel:
        """The channel or thread with an id."""
        return self.store.channels[channel_id]

    def delete_channel(self, channel: Channel) -> None:
        """Deletes a channel."""
        self.store.delete_channel(channel)

    def unfurl(self, message: Message, url: str = "https://example.com/") -> None:
        """Adds a link embed as Discord does: an update with unchanged text and no edit."""
        embed = {"type": "link", "url": url, "title": "A page"}
        self.store.edit(message, Version(message.content, self.clock.now(), embeds=[embed]), by_author=False)

    def redeliver(self, message: Message) -> None:
        """Sends the MESSAGE_CREATE of a message again."""
        self.store.redeliver(message)

    # recorded behaviour of the bot

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- reads well
        """Waits until `condition()` is true. Raises AssertionError after `timeout` seconds."""
        await self.store.changes.until(condition, timeout)

    def remove_command(self, name: str) -> None:
        """Removes a registered global command."""
        self._commands.remove(name)

    @property
    def commands(self) -> list[Json]:
        """The commands that the bot registered."""
        return self._commands.registered

    @property
    def presences(self) -> list[Json]:
        """The bot's presences, newest last."""
        return self.gateway.presences

    @property
    def calls(self) -> list[Call]:
        """Every REST call."""
        return self.log.calls

    @property
    def frames(self) -> list[Frame]:
        """Every gateway frame."""
        return self.log.frames

    @property
    def rate_limited(self) -> int:
        """Number of calls that got a 429."""
        return sum(call.status == 429 for call in self.log.calls)

    @property
    def pings(self) -> Pings:
        """All pings of the bot's posts, edits and interaction responses, deleted ones included."""
        total = NO_PINGS
        for channel in self.store.everywhere:
            for message in channel.everything:
                total |= message.pings if message.author is self.bot else NO_PINGS
        for interaction in self._interactions.all.values():
            for message in interaction.messages:
                total |= message.pings
        return total
