"""Implement `inhouse run`: serve the platforms whose tokens are set, until SIGTERM or SIGINT.

The first signal drains: running answers finish, and no new ones start. A second signal exits at once. SIGHUP reloads
the configuration; in a terminal, where it means that the terminal was closed, it drains.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from bot.cli.config_reload import Reloads
from bot.config.settings import MANAGED, Settings, near_misses, secrets
from bot.engine.client.process import EngineProcess
from bot.models.catalog import Catalog
from bot.observability.file_descriptors import raise_soft_limit
from bot.observability.logs import setup_logs
from bot.observability.systemd_notify import Notifier
from bot.platforms.adapter import Adapter
from bot.service.service import Service
from bot.types.engine import Engine
from bot.types.errors import ConfigError

log = logging.getLogger(__name__)

SLACK_TOKENS = {"SLACK_BOT_TOKEN": ("bot token", "xoxb-"), "SLACK_APP_TOKEN": ("app-level token", "xapp-")}
"""The kind and the prefix of Slack's two tokens."""
Handlers = Mapping[signal.Signals, Callable[[], None]]


def adapters_for(settings: Settings) -> list[Adapter]:
    """Create an adapter for each platform whose tokens are set.

    Raises ConfigError if only one of Slack's two tokens is set, or one is of the wrong kind.
    """
    adapters: list[Adapter] = []
    if settings.discord_bot_token is not None:
        from adapters.discord.adapter import DiscordAdapter

        adapters.append(DiscordAdapter(settings))
    if _has_slack(settings):
        from adapters.slack.adapter import SlackAdapter

        adapters.append(SlackAdapter(settings))
    return adapters


def engine_for(settings: Settings) -> Engine:
    """Create the engine that the settings choose. Raises ConfigError if the server that it runs is not installed."""
    if "worker" not in settings.roles:
        return EngineProcess()  # nothing is loaded into it, so it starts no process
    if settings.engine == "openai":
        from bot.engine.remote.remote_engine import RemoteEngine

        return RemoteEngine.of(settings)
    if settings.engine in MANAGED:
        from bot.engine.local_server.local_server_engine import LocalServerEngine

        return LocalServerEngine.of(settings)
    return EngineProcess()


def _has_slack(settings: Settings) -> bool:
    """Whether Slack's two tokens are set. Raises ConfigError if only one is set, or one is of the wrong kind."""
    tokens = (settings.slack_bot_token, settings.slack_app_token)
    given = {name: token.get_secret_value() for name, token in zip(SLACK_TOKENS, tokens, strict=True) if token}
    how = "`inhouse slack-manifest` says how to get it"
    for name, token in given.items():
        kind, mark = SLACK_TOKENS[name]
        if not token.startswith(mark):
            swapped = [other for other, (_, begins) in SLACK_TOKENS.items() if token.startswith(begins)]
            if swapped:
                held, begins = SLACK_TOKENS[swapped[0]]
                raise ConfigError(f"{name} holds the {held} ({begins}): move it to {swapped[0]}.")
            raise ConfigError(f"{name} must be the {kind}, which begins with {mark}: {how}.")
    for name, (kind, _) in SLACK_TOKENS.items():
        if given and name not in given:
            raise ConfigError(f"Slack needs two tokens, and {name}, the {kind}, is not set: {how}.")
    return bool(given)


def run_platforms(settings: Settings, adapters: Sequence[Adapter]) -> None:
    """Serve `adapters` until a signal ends the service. Raises ConfigError if there are none, and InhouseError."""
    setup_logs(settings.log_level, settings.log_format, secrets(settings))
    for near_miss in near_misses():
        log.warning("%s", near_miss)
    if not adapters:
        raise ConfigError(
            "No platform is configured: run `inhouse init`, or set DISCORD_BOT_TOKEN, or SLACK_BOT_TOKEN and "
            "SLACK_APP_TOKEN; `inhouse chat` needs no token."
        )
    raise_soft_limit()
    gc.freeze()  # otherwise a full collection scans all imported modules and blocks the event loop for 100 ms
    asyncio.run(_serve_supervised(settings, adapters, Notifier.of_environment()))


async def serve(
    settings: Settings, adapters: Sequence[Adapter], engine: Engine, stop_on: Sequence[signal.Signals]
) -> None:
    """Run a service until its adapters return or one of the signals arrives. Raises InhouseError."""
    service = Service(settings, Catalog.of(settings), adapters, engine)
    with _handling(service, dict.fromkeys(stop_on, service.stop)):
        await service.run()


async def _serve_supervised(settings: Settings, adapters: Sequence[Adapter], notifier: Notifier) -> None:
    """Like `serve`, with systemd notifications and configuration reloads."""
    service = Service(settings, Catalog.of(settings), adapters, engine_for(settings), notifier)
    handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT), service.stop)
    reloads = Reloads(settings, service, notifier)
    if sys.platform != "win32":
        handlers[signal.SIGHUP] = service.stop if os.isatty(0) else reloads.ask
    with _handling(service, handlers):
        reloading = asyncio.create_task(reloads.keep_up(), name="reloads")
        try:
            await service.run()
        finally:
            reloading.cancel()


@contextlib.contextmanager
def _handling(service: Service, handlers: Handlers) -> Iterator[None]:
    """Call these handlers on the event loop when their signals arrive.

    Not loop.add_signal_handler: Python runs `on_signal` on the main thread between two bytecode instructions, so
    `must_end` takes effect even while Python code blocks the loop.
    """
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if handlers[signal.Signals(number)] == service.stop:
            service.must_end()
        loop.call_soon_threadsafe(handlers[signal.Signals(number)])

    before = {number: signal.signal(number, on_signal) for number in handlers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
