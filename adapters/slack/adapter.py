"""The Slack adapter: translates slack-bolt's events into ours, and shows replies by streaming or editing messages.

`socket` keeps one socket open and registers for its events. `inbound` translates messages, fetches what they lack and
passes them to the core. `interactions` handles the slash command, buttons, menus and shortcuts. `outbound` writes and
finds messages.
"""

import contextlib
import time
from collections.abc import Sequence

from adapters.slack.bot_identity import PLATFORM
from adapters.slack.inbound.events import EventTranslator
from adapters.slack.inbound.history import read_back
from adapters.slack.inbound.intake import Intake
from adapters.slack.inbound.message_context import ContextFetcher
from adapters.slack.inbound.users import UserDirectory
from adapters.slack.interactions.handlers import InteractionHandlers, short_help
from adapters.slack.outbound.assistant import AssistantView
from adapters.slack.outbound.posting import Posting
from adapters.slack.outbound.rate_limits import RateLimits
from adapters.slack.outbound.streaming import OnStop
from adapters.slack.socket.connection import SocketConnection
from adapters.slack.socket.listeners import listen, make_app
from adapters.slack.socket.session import SocketTiming
from adapters.slack.web_client import RateLimitCounter, http_session, web_client
from bot.config.settings import Settings
from bot.platforms.adapter import Core, Limits
from bot.platforms.turns import Always, Turns
from bot.types.messages import ActionKind, ConversationKey, IncomingAction, IncomingMessage, Reply


class SlackAdapter:
    """One bot in one workspace of Slack."""

    platform = PLATFORM

    def __init__(
        self, settings: Settings, timing: SocketTiming | None = None, rate_limits: RateLimits | None = None
    ) -> None:
        self._settings = settings
        self._rate_limit_counter = RateLimitCounter()
        self._web = web_client(settings, counter=self._rate_limit_counter)
        self._connection = SocketConnection(settings, self._web, timing or SocketTiming())
        self._posting = Posting(settings, self._web, self._connection.identity, rate_limits)
        self._translator = EventTranslator(settings, self._connection.identity)
        self._context: ContextFetcher | None = None
        self._handlers: InteractionHandlers | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a socket at this moment; without a turn, whether messages can be posted."""
        return self._connection.connected

    @property
    def rate_limited(self) -> int:
        """How many calls Slack refused because of a rate limit."""
        return self._rate_limit_counter.count

    @property
    def limits(self) -> Limits:
        """What Slack can show; whether messages are streamed depends on the workspace."""
        return self._posting.limits

    def reload(self, settings: Settings) -> None:
        """Use these settings from now on; the socket and the registered slash command stay as they are."""
        self._settings = settings
        for part in (self._posting, self._translator, self._context, self._handlers):
            if part is not None:
                part.reload(settings)

    async def run(self, core: Core, turns: Turns | None = None) -> None:
        """Stay connected until close(). Raises FatalAdapterError where reconnecting cannot help.

        A socket is open while this host holds the turn `slack`; without it, messages are posted all the same.
        """
        web, identity = self._web, self._connection.identity
        users = UserDirectory(web, identity)
        translator = self._translator
        context = self._context = ContextFetcher(self._settings, web, identity, core, users, translator)
        assistant = AssistantView(web)
        closing, help_text = self._connection.closing, short_help(self._settings.slack_command)
        intake = Intake(core, translator, context, self._posting, assistant, closing, help_text)
        handlers = self._handlers = InteractionHandlers(self._settings, web, core, self._posting, translator, context)
        self._posting.streams.on_stop, self._posting.streams.team_of = _stop_handler(core), users.team
        app = make_app(web, identity)
        listen(app, intake, self._connection.recheck_token, handlers.register, assistant.register)
        turns = turns or Always()
        async with contextlib.AsyncExitStack() as stack:
            web.session = await stack.enter_async_context(http_session(may_send=lambda: turns.may_send))
            for close in (users.close, assistant.close, handlers.close, intake.close):
                stack.push_async_callback(close)
            await self._connection.run(app, intake.catch_up, turns)

    async def close(self) -> None:
        """Disconnect; run() returns soon after."""
        await self._connection.close()

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """The messages of people in a channel after `after_id`, oldest first. Raises RetryLater, Rejected or Gone.

        Messages older than INHOUSE_CATCHUP_AGE are not read, so that they do not count towards the limit.
        """
        self._connection.identity()
        assert self._context is not None
        oldest = time.time() - self._settings.catchup_age
        try:
            after = float(after_id)
        except ValueError:
            after = oldest
        start = max(after, oldest)
        return await read_back(self._web, self._translator, self._context, key, start, oldest, limit)

    def id_at(self, seconds: float) -> str:
        """The smallest ts of a message that is sent at a Unix time."""
        return f"{seconds:.6f}"

    async def post(self, reply: Reply) -> str:
        """Post a reply; returns its ts."""
        return await self._posting.post(reply)

    async def find_posted(self, reply: Reply) -> str | None:
        """The ts of a reply that an interrupted call may have posted."""
        return await self._posting.find_posted(reply)

    async def update(self, reply: Reply) -> None:
        """Update a posted reply."""
        await self._posting.update(reply)

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Show a status line in the thread; None removes it."""
        await self._posting.status(key, text)


def _stop_handler(core: Core) -> OnStop:
    """Handles Slack's own stop button under a stream like ours."""

    async def stop(reply: Reply) -> None:
        event_id = f"stopped {reply.reply_id}"
        await core.handle(IncomingAction(reply.key, event_id, reply.asker, reply.reply_id, ActionKind.STOP))

    return stop
