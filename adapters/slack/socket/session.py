"""One Socket Mode socket, from its opening to its end.

An acknowledgement is sent on the socket that delivered the event, and not once Slack has given up waiting. A socket
without frames for the idle timeout counts as ended. close() cancels all tasks; one that stores something may end later,
when the database answers.

slack_sdk's client would reconnect by itself, but it closes the old socket first and retries a bad address for ever. So
each client serves one socket, and `connection` opens the next.
"""

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass

import aiohttp
from slack_bolt.adapter.socket_mode.async_internals import run_async_bolt_app, send_async_response
from slack_bolt.app.async_app import AsyncApp
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.web_client import SILENT, proxy_for
from bot.types.errors import RetryLater

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 1.0
DRAIN_REASONS = ("warning", "refresh_requested")
"""Disconnect reasons after which the socket still works for some seconds."""


@dataclass(frozen=True, slots=True)
class SocketTiming:
    """Seconds. `ping`: between pings. `idle`: without a frame for so long the socket has ended. `watch`: between checks
    of that. `hello`: timeout for opening. `ack`: later than this no event is acknowledged. `retry`, `max_retry`: the
    first and the longest backoff. `token_check`: between checks of the bot token.
    """

    ping: float = 10.0
    idle: float = 25.0
    watch: float = 1.0
    hello: float = 10.0
    ack: float = 2.8
    retry: float = 1.0
    max_retry: float = 30.0
    token_check: float = 300.0


class _OneSocketClient(SocketModeClient):
    """slack_sdk's client without its reconnecting."""

    async def connect_to_new_endpoint(self, force: bool = False) -> None:
        """Do nothing: `connection` opens the next socket."""


class SocketSession:
    """One socket. `ready` and `ended` are set once; `reason` says why it ended."""

    def __init__(self, app: AsyncApp, web: AsyncWebClient, app_token: str, timing: SocketTiming) -> None:
        self._app, self._timing = app, timing
        self.ready, self.ended = asyncio.Event(), asyncio.Event()
        self.reason = ""
        self.open_sockets = 1
        """The number of the app's sockets when this one was opened, as Slack counts them."""
        self._tasks: set[asyncio.Task[None] | None] = set()
        self._received_at = self._now()
        self._client = _OneSocketClient(
            app_token,
            logger=SILENT,
            web_client=web,
            auto_reconnect_enabled=False,
            ping_interval=timing.ping,
            on_message_listeners=[self._on_message],
            on_error_listeners=[self._on_close],
            on_close_listeners=[self._on_close],
        )
        self._client.socket_mode_request_listeners.append(self._on_request)
        self._watcher: asyncio.Task[None] | None = None

    @property
    def draining(self) -> bool:
        """Whether it has ended but still works for some seconds."""
        return self.reason in DRAIN_REASONS

    async def open(self, url: str) -> None:
        """Connect and wait for Slack's hello. Raises RetryLater."""
        self._client.wss_uri, self._client.proxy = url, proxy_for(url)
        try:
            async with asyncio.timeout(self._timing.hello):
                await self._client.connect()  # type: ignore[no-untyped-call]
                self._received_at = self._now()
                self._watcher = asyncio.create_task(self._watch_connection())
                await self.ready.wait()
        except TimeoutError:
            raise RetryLater(self._timing.retry, "Slack does not open a socket") from None

    async def close(self) -> None:
        """Wait CLOSE_TIMEOUT_S for events in progress, then close the socket and cancel all tasks."""
        client = self._client
        try:
            tasks = [task for task in self._tasks if task]
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
                for task in late:
                    task.cancel()
                if late:  # one that stores something ends only when the database answers
                    await asyncio.wait(late, timeout=CLOSE_TIMEOUT_S)
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):  # a dead connection does not answer a close
                    await client.close()  # type: ignore[no-untyped-call]
        finally:  # also when this is cancelled
            futures = [
                client.message_processor,
                client.current_session_monitor,
                client.message_receiver,
                self._watcher,
            ]
            running = [each for each in futures if each is not None]
            for each in running:
                each.cancel()
            await client.aiohttp_client_session.close()
            await asyncio.gather(*running, return_exceptions=True)

    async def _on_message(self, message: aiohttp.WSMessage) -> None:
        """Called for each frame before its event is handled."""
        self._received_at = self._now()
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            frame = json.loads(message.data)
            if frame.get("type") == "hello":
                self.ready.set()
                self.open_sockets = int(frame.get("num_connections") or 1)
            elif frame.get("type") == "disconnect":
                self._set_ended(str(frame.get("reason")))

    async def _on_close(self, message: aiohttp.WSMessage) -> None:
        self._set_ended("closed")

    async def _on_request(self, client: AsyncBaseSocketModeClient, request: SocketModeRequest) -> None:
        """Handle one envelope, then acknowledge it unless Slack has stopped waiting."""
        task, started = asyncio.current_task(), self._now()
        self._tasks.add(task)
        try:
            response = await run_async_bolt_app(self._app, request)
            seconds = self._now() - started
            if seconds > self._timing.ack:
                again = " and will be delivered again" if request.type == "events_api" else ""
                log.warning("A Slack event took %.1f s, so it is not acknowledged%s.", seconds, again)
            else:
                await send_async_response(client, request, response, started)
        except (aiohttp.ClientError, OSError):
            log.info("The socket closed before an event could be acknowledged.")
        except Exception as error:  # the SDK logs it to SILENT only
            log.error("A Slack event could not be read (%s).", type(error).__name__)
        finally:
            self._tasks.discard(task)

    async def _watch_connection(self) -> None:
        """End the session when its connection is closed or idle."""
        client, answered = self._client, self._client.last_ping_pong_time
        while not self.ended.is_set():
            await asyncio.sleep(self._timing.watch)
            if client.last_ping_pong_time != answered:  # wall-clock time, so only its change counts
                answered, self._received_at = client.last_ping_pong_time, self._now()
            if client.current_session is None or client.current_session.closed:
                self._set_ended("closed")
            elif self._now() - self._received_at > self._timing.idle:
                self._set_ended("idle")

    def _set_ended(self, reason: str) -> None:
        if not self.ended.is_set() or self.draining:  # a draining socket may be closed by now
            self.reason = reason
        self.ended.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
