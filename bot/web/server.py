"""Serve /healthz, /readyz, /metrics, the status page and its events over HTTP, on the address of INHOUSE_HTTP.

If the port is not available, logs an error and the service runs without the page. A second instance is detected by the
lock of the state directory, not by the port.
"""

import errno
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.http import HttpProcessingError
from prometheus_client.exposition import choose_encoder

from bot.config.address import Address
from bot.config.settings import secrets
from bot.config.version import version
from bot.web.auth import Auth, with_headers
from bot.web.connections import Connections
from bot.web.event_stream import Stream
from bot.web.live_state import LiveState
from bot.web.page_data import Status
from bot.web.prometheus_collector import LiveCollector
from bot.web.recent_errors import RecentErrors
from bot.web.sampler import TICK_S, Sampler

log = logging.getLogger(__name__)
requests_log = logging.getLogger("bot.web.requests")
requests_log.addFilter(lambda record: not _is_clients_mistake(record))

PAGES = Path(__file__).with_name("page")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = ("style.css", "page.js", "plot.js", "words.js", "icon.svg")
LONGEST_BODY = 4096
HEADERS_S = 10.0
"""Timeout until a request's headers are complete, from the connection's start or the previous response, seconds."""
LINGER_S = 2.0
"""How long an unread request body is drained, so that the client can read the response, seconds."""
LAST_S = 1.0
"""Timeout of pending requests at shutdown, seconds."""


class WebServer:
    """Async context manager that serves inside its block unless INHOUSE_HTTP is off. `url` is '' while not serving."""

    def __init__(self, live_state: LiveState) -> None:
        settings = live_state.current.settings
        self.live_state = live_state
        self._address, token = settings.http if "web" in settings.roles else None, settings.http_token
        self._recent_errors = RecentErrors(secrets(settings))
        self.sampler = Sampler(live_state, TICK_S)
        self.status = Status(live_state, self.sampler, self._recent_errors, version())
        self.stream = Stream(self.status, self.sampler)
        self._auth = Auth(token.get_secret_value() if token else "", PAGES)
        self._registry = live_state.metrics.registry
        self._collector = LiveCollector(live_state, self.sampler, version())
        self._runner: web.AppRunner | None = None
        self._connections: Connections | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        if self._address is not None:
            await self._open(self._address)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is None or self._connections is None:
            return
        self.url = ""
        await self._connections.close()
        self.stream.close()
        await self.sampler.close()
        await self._runner.cleanup()
        self._connections.abort()
        self._registry.unregister(self._collector)
        self._recent_errors.close()

    async def _open(self, address: Address) -> None:
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=requests_log,
            handle_signals=False,
            shutdown_timeout=LAST_S,
            keepalive_timeout=HEADERS_S,  # aiohttp also applies it from the connection's start; data does not extend it
            lingering_time=LINGER_S,
            auto_decompress=False,  # no accepted request body is compressed
            handler_cancellation=True,  # frees the resources of a client that disconnected
        )
        await runner.setup()
        assert runner.server is not None
        connections = Connections(runner.server)
        try:
            port = await connections.listen(address)
        except OSError as error:
            await runner.cleanup()
            log.error("The status page cannot listen on %s (%s); %s", address, _reason(error), _fix(error))
            return
        self._runner, self._connections = runner, connections
        self.url = f"http://{Address(address.host, port)}/"
        self._registry.register(self._collector)
        self._recent_errors.open()
        self.sampler.open()
        log.info("The status page is at %s", self.url)

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._auth.middleware], client_max_size=LONGEST_BODY)
        application.on_response_prepare.append(with_headers)
        router = application.router
        router.add_get("/healthz", self._healthz)
        router.add_get("/readyz", self._readyz)
        router.add_get("/metrics", self._metrics)
        router.add_get("/", _file("index.html"))
        for name in FILES:
            router.add_get(f"/{name}", _file(name))
        router.add_get("/events", self._events, allow_head=False)
        router.add_post("/login", self._auth.login)
        return application

    async def _events(self, request: web.Request) -> web.StreamResponse:
        assert self._connections is not None
        with self._connections.exempt(request.transport):
            return await self.stream.serve(request)

    async def _healthz(self, _: web.Request) -> web.Response:
        """Liveness: a response shows that the event loop runs."""
        return web.Response(text="alive\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        await self.sampler.refresh()
        unready = self.live_state.unready(self.sampler.engine_problem)
        return web.Response(status=503 if unready else 200, text=f"not ready: {unready}\n" if unready else "ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except Exception:  # of a malformed version in the header
            encode, content_type = choose_encoder("")
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


def _file(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that serves one file of the page from memory."""
    body, content_type = (PAGES / name).read_bytes(), TYPES[Path(name).suffix]

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return handler


def _is_clients_mistake(record: logging.LogRecord) -> bool:
    """Whether this record is aiohttp's traceback of a malformed request, which already got a 400."""
    error = record.exc_info[1] if record.exc_info else None
    return isinstance(error, HttpProcessingError | web.RequestPayloadError | web.PayloadAccessError)


def _reason(error: OSError) -> str:
    return "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or type(error).__name__


def _fix(error: OSError) -> str:
    other = "another port" if error.errno == errno.EADDRINUSE else "an address of this machine, as 127.0.0.1:8321"
    return f"Inhouse runs without it. Set INHOUSE_HTTP to {other}, or to off."
