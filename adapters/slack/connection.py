"""Staying connected to Slack, for as long as it lets us.

In: settings and an app. Out: a socket that is open, again and again. It promises that only a refusal for good ends the
adapter; that where Slack asks for another socket, the old one stays until the new one is there; that failures are tried
again further and further apart; that nothing is left behind in the end.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable

from slack_bolt.app.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.failures import APPS, fatal_error, mapped_errors
from adapters.slack.me import BotIdentity
from adapters.slack.scopes import check_token, warn_missing_scopes
from adapters.slack.session import SocketSession, SocketTiming
from bot.config import Settings
from bot.errors import AdapterError, FatalAdapterError, RetryLater

log = logging.getLogger(__name__)

STABLE_S = 60.0
"""A socket that lived for so long was a good one: the waits before the next try begin anew."""
MIN_LIFETIME_S = 5.0
"""A socket that is to be replaced sooner than this is not replaced at once: it may go on like that."""

END_REASONS = {
    "closed": "the line broke",
    "idle": "nothing was heard for a while",
    "link_disabled": f"Socket Mode was switched off; it can be switched on at {APPS} under 'Socket Mode'",
    "too_many_websockets": "more than ten sockets are open for this app, so some of them are somebody else's",
    "refresh_requested": "Slack wants another socket",
    "warning": "Slack wants another socket",
}
"""Why a session was over, in words."""


class SocketConnection:
    """One bot's connection."""

    def __init__(self, settings: Settings, web: AsyncWebClient, timing: SocketTiming) -> None:
        self._settings, self._web, self._timing = settings, web, timing
        self._identity: BotIdentity | None = None
        self._recheck = asyncio.Event()
        self._failures = 0
        self._closing_tasks: set[asyncio.Task[None]] = set()
        self._current: SocketSession | None = None
        self.closing = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether there is a socket at this moment."""
        return self._current is not None and (not self._current.ended.is_set() or self._current.draining)

    def identity(self) -> BotIdentity:
        """Who the bot is. Raises RetryLater before Slack said so."""
        if self._identity is None:
            raise RetryLater(1.0, "Slack is not connected yet")
        return self._identity

    def recheck_token(self) -> None:
        """Look whether the token still counts."""
        self._recheck.set()

    async def run(self, app: AsyncApp, on_session: Callable[[], None]) -> None:
        """Stay connected until close(); `begun` is called at each new session. Raises FatalAdapterError."""
        app_token = self._settings.slack_app_token
        if self._settings.slack_bot_token is None or app_token is None:
            missing = "SLACK_BOT_TOKEN" if self._settings.slack_bot_token is None else "SLACK_APP_TOKEN"
            raise FatalAdapterError(f"There is no {missing}, so Slack cannot be connected to.")
        closing = asyncio.create_task(self.closing.wait())
        loop = asyncio.create_task(self._reconnect_forever(app, app_token.get_secret_value(), on_session), name="slack")
        try:
            await asyncio.wait([loop, closing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            loop.cancel()
            ended = (await asyncio.gather(loop, closing, return_exceptions=True))[0]
            await asyncio.gather(*self._closing_tasks, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended

    async def close(self) -> None:
        """End the connection; run() returns soon after."""
        self.closing.set()

    async def _reconnect_forever(self, app: AsyncApp, app_token: str, on_session: Callable[[], None]) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while True:
                try:
                    session = await self._open(app, app_token)
                except FatalAdapterError:
                    raise
                except Exception as error:  # whatever it was, a later try may do better
                    await self._back_off(_error_name(error), error.seconds if isinstance(error, RetryLater) else 0.0)
                    continue
                on_session()
                self._close_in_background(self._current)
                self._current, at = session, clock()
                await self._until_ended(session)
                lifetime = clock() - at
                self._failures = 0 if lifetime > STABLE_S else self._failures
                if not session.draining:
                    self._close_in_background(session)
                    self._current = None
                if self._current is None or lifetime < MIN_LIFETIME_S:
                    await self._back_off(END_REASONS.get(session.reason, session.reason))
        finally:
            self._close_in_background(self._current)
            self._current = None

    async def _open(self, app: AsyncApp, app_token: str) -> SocketSession:
        """A new session. Raises RetryLater, FatalAdapterError."""
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
        """Ask Slack who we are and what we may do. Raises RetryLater, FatalAdapterError."""
        self._recheck.clear()
        async with _fatal_errors():
            answer = await self._web.auth_test()
        identity = check_token(answer, self._settings)
        if identity != self._identity:
            warn_missing_scopes(identity)
        self._identity = identity

    async def _until_ended(self, session: SocketSession) -> None:
        """Wait for the end of a session, and now and then see that the token still counts. Raises FatalAdapterError."""
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
                except Exception as error:  # the socket tells better whether Slack can be reached
                    log.info("Slack does not say whether the token still counts: %s", _error_name(error))

    def _close_in_background(self, session: SocketSession | None) -> None:
        """Close a session while life goes on."""
        if session is not None:
            task = asyncio.create_task(session.close())
            self._closing_tasks.add(task)
            task.add_done_callback(self._closing_tasks.discard)

    async def _back_off(self, why: str, at_least: float = 0.0) -> None:
        """Before the next try: longer and longer while it goes on failing."""
        longest = min(self._timing.max_retry, self._timing.retry * 2.0**self._failures)
        wait = max(at_least, random.uniform(longest / 2, longest))
        self._failures = min(self._failures + 1, 20)
        log.warning("The connection to Slack: %s; the next try is in %.1f s.", why, wait)
        await asyncio.sleep(wait)


@contextlib.asynccontextmanager
async def _fatal_errors() -> AsyncIterator[None]:
    """Around calls that tell whether Slack still wants us. Raises FatalAdapterError when it does not."""
    try:
        async with mapped_errors():
            yield
    except AdapterError as error:
        cause = error.__cause__
        if cause is not None and (refusal := fatal_error(cause)):
            raise refusal from cause
        raise


def _error_name(error: Exception) -> str:
    """An error in a few words, without what it may quote."""
    return str(error).partition(";")[0] if isinstance(error, AdapterError) else type(error).__name__
