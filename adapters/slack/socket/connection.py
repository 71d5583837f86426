"""Keeps a Socket Mode connection open, and reconnects with backoff and jitter until close().

Of several hosts, only those with the turn `slack` open one; the others authenticate, so that they can post.
Only an error that needs a person ends it. Where Slack asks for a new socket, the old one stays open until the new one
is ready. No task outlives run().
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable

from slack_bolt.app.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.bot_identity import PLATFORM, BotIdentity, check_token, warn_missing_scopes
from adapters.slack.error_mapping import APPS, fatal_error, mapped_errors
from adapters.slack.socket.session import SocketSession, SocketTiming
from bot.config.settings import Settings
from bot.platforms.turns import Turns, while_held
from bot.types.errors import AdapterError, FatalAdapterError, NotSent, RetryLater

log = logging.getLogger(__name__)

STABLE_S = 60.0
"""A socket that stayed open this long resets the backoff, seconds."""
MIN_LIFETIME_S = 5.0
"""A socket that ends sooner is replaced only after a wait, so that this cannot loop without one. Seconds."""

END_REASONS = {
    "closed": "the connection was lost",
    "idle": "Slack sent nothing within the idle timeout",
    "link_disabled": f"Socket Mode was switched off; it can be switched on at {APPS} under 'Socket Mode'",
    "too_many_websockets": "more than ten sockets are open for this app; stop other programs that use its tokens",
    "refresh_requested": "Slack asks for a new socket",
    "warning": "Slack asks for a new socket",
}
"""Log messages by the reason for which a session ended."""


class SocketConnection:
    """The connection of one bot."""

    def __init__(self, settings: Settings, web: AsyncWebClient, timing: SocketTiming) -> None:
        self._settings, self._web, self._timing = settings, web, timing
        self._identity: BotIdentity | None = None
        self._listening = False
        self._recheck = asyncio.Event()
        self._failures = 0
        self._closing_tasks: set[asyncio.Task[None]] = set()
        self._current: SocketSession | None = None
        self.closing = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether there is a socket at this moment; without a turn, whether messages can be posted."""
        if not self._listening:
            return self._identity is not None and not self.closing.is_set()
        return self._current is not None and (not self._current.ended.is_set() or self._current.draining)

    def identity(self) -> BotIdentity:
        """Who the bot is. Raises NotSent before the first authentication."""
        if self._identity is None:
            raise NotSent(1.0, "Slack is not connected yet")
        return self._identity

    def recheck_token(self) -> None:
        """Check the bot token again soon."""
        self._recheck.set()

    async def run(self, app: AsyncApp, on_session: Callable[[], None], turns: Turns) -> None:
        """Stay connected until close(); calls `on_session` at each new session. Raises FatalAdapterError."""
        app_token = self._settings.slack_app_token
        if self._settings.slack_bot_token is None or app_token is None:
            missing = "SLACK_BOT_TOKEN" if self._settings.slack_bot_token is None else "SLACK_APP_TOKEN"
            raise FatalAdapterError(f"There is no {missing}, so Slack cannot be connected to.")
        closing = asyncio.create_task(self.closing.wait())
        serving = self._serve(app, app_token.get_secret_value(), on_session, turns)
        loop = asyncio.create_task(serving, name="slack")
        try:
            await asyncio.wait([loop, closing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            loop.cancel()
            try:
                ended = (await asyncio.gather(loop, closing, return_exceptions=True))[0]
            finally:
                await asyncio.gather(*self._closing_tasks, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended

    async def close(self) -> None:
        """End the connection; run() returns soon after."""
        self.closing.set()

    async def _serve(self, app: AsyncApp, app_token: str, on_session: Callable[[], None], turns: Turns) -> None:
        """Authenticate, then keep a socket open whenever it is this host's turn."""
        while self._identity is None:
            try:
                await self._authenticate()
            except FatalAdapterError:
                raise
            except Exception as error:  # a later try may succeed
                await self._back_off(error)
        await while_held(turns, PLATFORM, lambda: self._reconnect_forever(app, app_token, on_session, turns))

    async def _reconnect_forever(
        self, app: AsyncApp, app_token: str, on_session: Callable[[], None], turns: Turns
    ) -> None:
        clock = asyncio.get_running_loop().time
        self._listening = True
        try:
            while True:
                try:
                    session = await self._open(app, app_token)
                except FatalAdapterError:
                    raise
                except Exception as error:  # a later try may succeed
                    await self._back_off(error)
                    continue
                on_session()
                self._warn_of_others(session, turns.hosts)
                self._close_in_background(self._current)
                self._current, at = session, clock()
                await self._until_ended(session)
                lifetime = clock() - at
                self._failures = 0 if lifetime > STABLE_S else self._failures
                if not session.draining:
                    self._close_in_background(session)
                    self._current = None
                if self._current is None or lifetime < MIN_LIFETIME_S:
                    await self._back_off(session.reason)
        finally:
            self._listening = False
            self._close_in_background(self._current)
            self._current = None

    def _warn_of_others(self, session: SocketSession, hosts: int) -> None:
        """Log that another program has a socket of this app, since Slack sends each event to one socket only.

        A host has two while it replaces one.
        """
        ours = 2 * hosts if self._current else 2 * hosts - 1
        if hosts and session.open_sockets > ours:
            log.warning(
                "Slack counts %d sockets of this app, more than Inhouse has. Another program with the same "
                "SLACK_APP_TOKEN takes a part of the messages: stop it, or make a new token at %s. Right after a "
                "crash, it may be the old socket.",
                session.open_sockets,
                APPS,
            )

    async def _open(self, app: AsyncApp, app_token: str) -> SocketSession:
        """Open a new session. Raises RetryLater or FatalAdapterError."""
        await self._authenticate()
        async with _fatal_errors():
            answer = await self._web.apps_connections_open(app_token=app_token)
        session = SocketSession(app, self._web, app_token, self._timing)
        try:
            await session.open(str(answer["url"]))
        except BaseException:
            await session.close()
            raise
        return session

    async def _authenticate(self) -> None:
        """Ask Slack for the bot's identity and scopes. Raises RetryLater or FatalAdapterError."""
        self._recheck.clear()
        async with _fatal_errors():
            answer = await self._web.auth_test()
        identity = check_token(answer, self._settings)
        if identity != self._identity:
            warn_missing_scopes(identity)
        self._identity = identity

    async def _until_ended(self, session: SocketSession) -> None:
        """Wait until a session ends; checks the token meanwhile. Raises FatalAdapterError."""
        while not session.ended.is_set():
            waits = [asyncio.create_task(session.ended.wait()), asyncio.create_task(self._recheck.wait())]
            try:
                await asyncio.wait(waits, timeout=self._timing.token_check, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waits:
                    task.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            if not session.ended.is_set():
                try:
                    await self._authenticate()
                except FatalAdapterError:
                    raise
                except Exception as error:  # the socket shows whether Slack can be reached
                    log.info("The bot token could not be checked: %s", _error_name(error))

    def _close_in_background(self, session: SocketSession | None) -> None:
        """Close a session without waiting for it."""
        if session is not None:
            task = asyncio.create_task(session.close())
            self._closing_tasks.add(task)
            task.add_done_callback(self._closing_tasks.discard)

    async def _back_off(self, why: Exception | str) -> None:
        """Wait before the next try, with exponential backoff and jitter, and at least for as long as Slack asked.

        Not stamina: the backoff spans sessions, and one that stayed open long enough resets it.
        """
        at_least = why.seconds if isinstance(why, RetryLater) else 0.0
        reason = END_REASONS.get(why, why) if isinstance(why, str) else _error_name(why)
        longest = min(self._timing.max_retry, self._timing.retry * 2.0**self._failures)
        wait = max(at_least, random.uniform(longest / 2, longest))
        self._failures = min(self._failures + 1, 20)
        log.warning("Disconnected from Slack (%s); reconnecting in %.1f s.", reason, wait)
        await asyncio.sleep(wait)


@contextlib.asynccontextmanager
async def _fatal_errors() -> AsyncIterator[None]:
    """Around calls whose refusal needs a person. Raises FatalAdapterError for these."""
    try:
        async with mapped_errors():
            yield
    except AdapterError as error:
        cause = error.__cause__
        if cause is not None and (refusal := fatal_error(cause)):
            raise refusal from cause
        raise


def _error_name(error: Exception) -> str:
    """A short name for an error, without text that it may quote."""
    return str(error).partition(";")[0] if isinstance(error, AdapterError) else type(error).__name__
