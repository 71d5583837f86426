"""A fake Slack workspace: Web API, Socket Mode, response_urls, files.

async with FakeSlack() as server:
    ana, general = server.user("ana"), server.channel("general")
    await ana.says(general, "hello", mention=True)
    await server.until(lambda: general.messages)
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.support.fakes.slack.api import Api, Handler
from tests.support.fakes.slack.extras import ExtraMethods, Status
from tests.support.fakes.slack.log import Ack, Call, Delivery, Log
from tests.support.fakes.slack.messages import MessageMethods
from tests.support.fakes.slack.people import Interactions, Person
from tests.support.fakes.slack.places import PlaceMethods
from tests.support.fakes.slack.sockets import SocketMode
from tests.support.fakes.slack.state import CHANNEL, Channel, Message, User
from tests.support.fakes.slack.store import SlackStore
from tests.support.fakes.slack.streams import StreamMethods
from tests.support.fakes.slack.subscriptions import ALL_EVENTS
from tests.support.fakes.tls import LOOPBACK

BOT_TOKEN = "xoxb-1-2-abcdefghijkl"
APP_TOKEN = "xapp-1-A0INHOUSE01-3-0123456789abcdef"


class FakeSlack:
    """`async with FakeSlack() as server: ...`"""

    def __init__(self, *, port: int = 0, address: str = LOOPBACK) -> None:
        self.bot_token, self.app_token = BOT_TOKEN, APP_TOKEN
        self._port, self._address = port, address
        self.store = SlackStore()
        self.clock, self.log = self.store.clock, Log()
        self._api = Api(self.store, self.log, self.bot_token, self.app_token)
        self.limits, self.faults = self._api.limits, self._api.faults
        self.sockets = SocketMode(self.store, self.log)
        self._streams = StreamMethods(self.store)
        self.extras = ExtraMethods(self.store, self.bot_token)
        self.setup = Interactions(self.store, self.sockets, self.extras)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        parts = (
            MessageMethods(self.store),
            PlaceMethods(self.store, self.app_token),
            self._streams,
            self.extras,
            self.sockets,
        )
        methods: dict[str, Handler] = {}
        for part in parts:
            methods |= part.methods()
        self._api.mount(app, methods)
        app.router.add_get("/link/", self.sockets.serve)
        app.router.add_post("/respond/{name}", self.setup.respond)
        app.router.add_post("/upload/{file}", self.extras.upload)
        app.router.add_get("/files-pri/{file}/{name}", self.extras.download)
        app.router.add_get("/files-pri/download/{file}/{name}", self.extras.download)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._address, self._port).start()
        self.store.base_url = f"http://{self._address}:{self._runner.addresses[0][1]}/"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults.release_all()
        await self.sockets.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    # users and channels

    @property
    def api_url(self) -> str:
        """The value for INHOUSE_SLACK_API_URL."""
        return f"{self.store.base_url}api/"

    @property
    def bot(self) -> User:
        """The bot's own account."""
        return self.store.bot

    def user(self, name: str, *, admin: bool = False, bot: bool = False) -> Person:
        """Adds a user to the workspace and to all its channels."""
        user = self.store.new_user(name, bot, admin)
        for channel in self.store.channels.values():
            if channel.person is None:
                channel.members.append(user)
        return Person(user, self.setup)

    def channel(self, name: str, kind: str = CHANNEL, *, with_bot: bool = True) -> Channel:
        """Adds a channel with all users in it."""
        return self.store.new_channel(name, kind, with_bot)

    def dm(self, person: Person) -> Channel:
        """The direct messages between a user and the bot."""
        return self.store.dm(person.user)

    def replace_app_token(self, token: str) -> None:
        """Accepts this app token instead of the one of the workspace's app."""
        self._api.app_token = token

    def redeliver(self, message: Message, what: str = "message") -> None:
        """Sends the event of a message again."""
        found = [
            each
            for each in self.sockets.envelopes
            if each.kind == "events_api" and each.what.partition(".")[0] == what
            if each.payload["event"].get("ts") == message.ts
        ]
        self.sockets.redeliver(found[-1].event_id)

    def stops_stream(self, message: Message) -> None:
        """Presses Slack's own stop button."""
        self._streams.stopped_by_person(message)

    def status_of(self, channel: Channel, thread_ts: str) -> str:
        """The current status under a thread."""
        return self.extras.status_of(channel, thread_ts)

    # switches

    @property
    def scopes(self) -> set[str]:
        """The bot token's scopes; change them in place."""
        return self.store.scopes

    @property
    def app_scopes(self) -> set[str]:
        """The app-level token's scopes; change them in place."""
        return self._api.app_scopes

    @property
    def events(self) -> set[str]:
        """The event subscriptions; change them in place."""
        return self.store.events

    def subscribe_only(self, *events: str) -> None:
        """Replaces the event subscriptions."""
        assert set(events) <= ALL_EVENTS
        self.store.events = set(events)

    def refuse_token(self, error: str, *, app: bool = False) -> None:
        """Answers calls with the bot's (or the app's) token with this error; '' ends that."""
        if app:
            self._api.app_token_error = error
        else:
            self._api.bot_token_error = error

    def freeze(self, frozen: bool = True) -> None:
        """Makes the existing sockets half-open: no frame passes either way."""
        self.sockets.freeze(frozen)

    @property
    def streams_enabled(self) -> bool:
        """Whether the workspace has native streams."""
        return self._streams.enabled

    @streams_enabled.setter
    def streams_enabled(self, enabled: bool) -> None:
        self._streams.enabled = enabled

    @property
    def block_chunks(self) -> bool:
        """Whether streams accept blocks between texts."""
        return self._streams.block_chunks

    @block_chunks.setter
    def block_chunks(self, taken: bool) -> None:
        self._streams.block_chunks = taken

    # recorded behaviour of the bot

    async def until(self, condition: Callable[[], object], timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- reads well
        """Waits until `condition()` is true. Raises AssertionError after `timeout` seconds."""
        await self.store.changes.until(condition, timeout)

    @property
    def calls(self) -> list[Call]:
        """Every call of the Web API."""
        return self.log.calls

    @property
    def acks(self) -> list[Ack]:
        """Every acknowledged envelope."""
        return self.log.acks

    @property
    def deliveries(self) -> list[Delivery]:
        """Every envelope that was sent."""
        return self.log.deliveries

    @property
    def statuses(self) -> list[Status]:
        """Every status that was set."""
        return self.extras.statuses

    @property
    def rate_limited(self) -> int:
        """Number of calls that got a 429."""
        return sum(call.status == 429 for call in self.log.calls)

    @property
    def everything(self) -> list[Message]:
        """All messages of the bot, ephemeral and deleted ones included."""
        found: list[Message] = []
        for channel in self.store.channels.values():
            found += [each for each in [*channel.everything, *channel.ephemerals] if each.author is self.bot]
        return found

    @property
    def pings(self) -> list[str]:
        """All unescaped mentions in the bot's messages."""
        return [ping for message in self.everything for ping in message.pings]

    @property
    def unfurls(self) -> list[str]:
        """All links that Slack would have fetched."""
        return [link for message in self.everything for link in message.unfurls]

    def settings(self) -> dict[str, Any]:  # Any: values of settings
        """The settings that point a Settings at this server."""
        return {
            "slack_bot_token": self.bot_token,
            "slack_app_token": self.app_token,
            "slack_api_url": self.api_url,
        }
