"""REST: channels, threads, direct messages, servers, users, the application, and the gateway's URL."""

from tests.support.fakes.discord import checks, payloads
from tests.support.fakes.discord.bits import Can
from tests.support.fakes.discord.handshake import SessionStart
from tests.support.fakes.discord.messages import find, reach, require
from tests.support.fakes.discord.rest import Answer, Ask, Handler
from tests.support.fakes.discord.state import PUBLIC_THREAD, Guild, Json, Message, User
from tests.support.fakes.discord.store import DiscordStore


class PlaceRoutes:
    """The routes about channels, servers, users and the bot itself."""

    def __init__(self, store: DiscordStore, session_start: SessionStart) -> None:
        self._store = store
        self._session_start = session_start

    def routes(self) -> dict[str, Handler]:
        """Route to handler."""
        return {
            "GET /users/@me": lambda ask: payloads.user(self._store.bot),
            "POST /users/@me/channels": self.open_dm,
            "GET /users/{user_id}": self.user,
            "GET /oauth2/applications/@me": lambda ask: self.application(),
            "GET /applications/@me": lambda ask: self.application(),
            "GET /gateway": lambda ask: {"url": "wss://gateway.discord.gg"},
            "GET /gateway/bot": self.gateway,
            "GET /guilds/{guild_id}": self.guild,
            "GET /guilds/{guild_id}/channels": self.guild_channels,
            "GET /guilds/{guild_id}/threads/active": self.active_threads,
            "GET /guilds/{guild_id}/members/{user_id}": self.member,
            "GET /channels/{channel_id}": lambda ask: payloads.channel(reach(self._store, ask.path["channel_id"])),
            "POST /channels/{channel_id}/threads": self.start_thread,
            "POST /channels/{channel_id}/messages/{message_id}/threads": self.start_thread,
            "PUT /channels/{channel_id}/thread-members/@me": self.join_thread,
        }

    def application(self) -> Json:
        """The bot's application; its flags show which privileged intents are enabled."""
        bot = self._store.bot
        return {
            "id": bot.id,
            "name": bot.name,
            "icon": None,
            "description": "",
            "summary": "",
            "bot_public": True,
            "bot_require_code_grant": False,
            "verify_key": "00",
            "owner": payloads.user(next(iter(self._store.guilds.values())).owner),
            "team": None,
            "interactions_endpoint_url": None,
            "flags": self._store.flags,
            "approximate_guild_count": self._store.elsewhere + len(self._store.guilds),
        }

    def open_dm(self, ask: Ask) -> Answer:
        """Opens the direct-message channel with a user."""
        return payloads.channel(self._store.dm(self._find_user(str(ask.body["recipient_id"]))))

    def user(self, ask: Ask) -> Answer:
        """A user."""
        return payloads.user(self._find_user(ask.path["user_id"]))

    def gateway(self, ask: Ask) -> Answer:
        """The gateway's URL, the recommended shards and the remaining session starts."""
        start = self._session_start
        return {"url": "wss://gateway.discord.gg", "shards": start.shards, "session_start_limit": start.payload()}

    def guild(self, ask: Ask) -> Answer:
        """A server."""
        guild = self._find_guild(ask)
        data = payloads.guild(guild, [], self._store.bot, False)
        return data | {"approximate_member_count": len(guild.members)}

    def guild_channels(self, ask: Ask) -> Answer:
        """The server's channels that the bot sees, without threads."""
        visible = self._store.visible(self._find_guild(ask))
        return [payloads.channel(each) for each in visible if each.parent is None]

    def active_threads(self, ask: Ask) -> Answer:
        """The server's threads that the bot sees."""
        visible = self._store.visible(self._find_guild(ask))
        return {"threads": [payloads.channel(each) for each in visible if each.parent is not None], "members": []}

    def member(self, ask: Ask) -> Answer:
        """A member of a server."""
        guild = self._find_guild(ask)
        who = guild.members.get(ask.path["user_id"])
        if who is None:
            raise checks.unknown("Member", 10007)
        return payloads.member(who, guild)

    def start_thread(self, ask: Ask) -> Answer:
        """Starts a public thread of the bot, from a message if given."""
        parent = reach(self._store, ask.path["channel_id"])
        require(self._store, parent, Can.CREATE_PUBLIC_THREADS)
        checks.length("name", ask.body.get("name"), 1, 100)
        if parent.kind == PUBLIC_THREAD or parent.guild is None:
            raise checks.ApiError(400, 50024, "Cannot execute action on this channel type")
        on: Message | None = None
        if "message_id" in ask.path:
            on = find(parent, ask.path["message_id"])
            if on.thread is not None:
                raise checks.ApiError(400, 160004, "A thread has already been created for this message")
        return payloads.channel(self._store.new_thread(parent, ask.body["name"], self._store.bot, on))

    def join_thread(self, ask: Ask) -> Answer:
        """Joins a thread; the bot sees public threads without joining, so nothing changes."""
        reach(self._store, ask.path["channel_id"])
        return None

    def _find_guild(self, ask: Ask) -> Guild:
        guild = self._store.guilds.get(ask.path["guild_id"])
        if guild is None:
            raise checks.unknown("Guild", 10004)
        return guild

    def _find_user(self, user_id: str) -> User:
        if user_id not in self._store.users:
            raise checks.unknown("User", 10013)
        return self._store.users[user_id]
