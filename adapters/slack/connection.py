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

from adapters.slack.failures import APPS, fatal, mapped
from adapters.slack.me import Me
from adapters.slack.scopes import check, tell_missing
from adapters.slack.session import Session, Timing
from bot.config import Settings
from bot.errors import AdapterError, FatalAdapterError, RetryLater

log = logging.getLogger(__name__)

STEADY_S = 60.0
"""A socket that lived for so long was a good one: the waits before the next try begin anew."""
HASTE_S = 5.0
"""A socket that is to be replaced sooner than this is not replaced at once: it may go on like that."""

ENDS = {
    "closed": "the line broke",
    "deaf": "nothing was heard for a while",
    "link_disabled": f"Socket Mode was switched off; it can be switched on at {APPS} under 'Socket Mode'",
    "too_many_websockets": "more than ten sockets are open for this app, so some of them are somebody else's",
    "refresh_requested": "Slack wants another socket",
    "warning": "Slack wants another socket",
}
"""Why a session was over, in words."""


class Connection:
    """One bot's connection."""

    def __init__(self, settings: Settings, web: AsyncWebClient, timing: Timing) -> None:
        self._settings, self._web, self._timing = settings, web, timing
        self._me: Me | None = None
        self._doubt = asyncio.Event()
        self._failures = 0
        self._closings: set[asyncio.Task[None]] = set()
        self._current: Session | None = None
        self.closing = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether there is a socket at this moment."""
        return self._current is not None and (not self._current.over.is_set() or self._current.leaving)

    def me(self) -> Me:
        """Who the bot is. Raises RetryLater before Slack said so."""
        if self._me is None:
            raise RetryLater(1.0, "Slack is not connected yet")
        return self._me

    def doubt(self) -> None:
        """Look whether the token still counts."""
        self._doubt.set()

    async def run(self, app: AsyncApp, begun: Callable[[], None]) -> None:
        """Stay connected until close(); `begun` is called at each new session. Raises FatalAdapterError."""
        app_token = self._settings.slack_app_token
        if self._settings.slack_bot_token is None or app_token is None:
            missing = "SLACK_BOT_TOKEN" if self._settings.slack_bot_token is None else "SLACK_APP_TOKEN"
            raise FatalAdapterError(f"There is no {missing}, so Slack cannot be connected to.")
        closing = asyncio.create_task(self.closing.wait())
        living = asyncio.create_task(self._keep_living(app, app_token.get_secret_value(), begun), name="slack")
        try:
            await asyncio.wait([living, closing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            living.cancel()
            ended = (await asyncio.gather(living, closing, return_exceptions=True))[0]
            await asyncio.gather(*self._closings, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended

    async def close(self) -> None:
        """End the connection; run() returns soon after."""
        self.closing.set()

    async def _keep_living(self, app: AsyncApp, app_token: str, begun: Callable[[], None]) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while True:
                try:
                    opened = await self._open(app, app_token)
                except FatalAdapterError:
                    raise
                except Exception as error:  # whatever it was, a later try may do better
                    await self._wait(_named(error), error.seconds if isinstance(error, RetryLater) else 0.0)
                    continue
                begun()
                self._retire(self._current)
                self._current, at = opened, clock()
                await self._until_over(opened)
                lived = clock() - at
                self._failures = 0 if lived > STEADY_S else self._failures
                if not opened.leaving:
                    self._retire(opened)
                    self._current = None
                if self._current is None or lived < HASTE_S:
                    await self._wait(ENDS.get(opened.reason, opened.reason))
        finally:
            self._retire(self._current)
            self._current = None

    async def _open(self, app: AsyncApp, app_token: str) -> Session:
        """A new session. Raises RetryLater, FatalAdapterError."""
        await self._look()
        async with _asking():
            answer = await self._web.apps_connections_open(app_token=app_token)
        opened = Session(app, self._web, app_token, self._timing)
        try:
            await opened.open(str(answer["url"]))
        except BaseException:
            await opened.close()
            raise
        return opened

    async def _look(self) -> None:
        """Ask Slack who we are and what we may do. Raises RetryLater, FatalAdapterError."""
        self._doubt.clear()
        async with _asking():
            answer = await self._web.auth_test()
        me = check(answer, self._settings)
        if me != self._me:
            tell_missing(me)
        self._me = me

    async def _until_over(self, opened: Session) -> None:
        """Wait for the end of a session, and now and then see that the token still counts. Raises FatalAdapterError."""
        while not opened.over.is_set():
            waits = [asyncio.create_task(opened.over.wait()), asyncio.create_task(self._doubt.wait())]
            try:
                await asyncio.wait(waits, timeout=self._timing.check, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waits:
                    task.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            if not opened.over.is_set():
                try:
                    await self._look()
                except FatalAdapterError:
                    raise
                except Exception as error:  # the socket tells better whether Slack can be reached
                    log.info("Slack does not say whether the token still counts: %s", _named(error))

    def _retire(self, opened: Session | None) -> None:
        """Close a session while life goes on."""
        if opened is not None:
            task = asyncio.create_task(opened.close())
            self._closings.add(task)
            task.add_done_callback(self._closings.discard)

    async def _wait(self, why: str, at_least: float = 0.0) -> None:
        """Before the next try: longer and longer while it goes on failing."""
        longest = min(self._timing.longest, self._timing.retry * 2.0**self._failures)
        wait = max(at_least, random.uniform(longest / 2, longest))
        self._failures = min(self._failures + 1, 20)
        log.warning("The connection to Slack: %s; the next try is in %.1f s.", why, wait)
        await asyncio.sleep(wait)


@contextlib.asynccontextmanager
async def _asking() -> AsyncIterator[None]:
    """Around calls that tell whether Slack still wants us. Raises FatalAdapterError when it does not."""
    try:
        async with mapped():
            yield
    except AdapterError as error:
        cause = error.__cause__
        if cause is not None and (refusal := fatal(cause)):
            raise refusal from cause
        raise


def _named(error: Exception) -> str:
    """An error in a few words, without what it may quote."""
    return str(error).partition(";")[0] if isinstance(error, AdapterError) else type(error).__name__
