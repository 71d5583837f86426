"""Implement `inhouse chat`: run the service with the terminal as its only platform.

The conversation is stored in a subdirectory of the state directory, separate from `inhouse run`; --once and piped
questions store nothing. The log goes to chat.log in the state directory.
"""

import asyncio
import io
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from adapters.console.adapter import KEY, ConsoleAdapter
from adapters.console.line_editor import TypedLines
from adapters.console.piped import OneLine, PipedLines, PlainScreen
from adapters.console.screen import RichScreen
from bot.cli.model_commands import pull_model
from bot.cli.run import engine_for, serve
from bot.config.settings import Settings, secrets
from bot.config.version import version
from bot.models.catalog import Catalog
from bot.models.pull import installed
from bot.observability.logs import setup_logs
from bot.storage import Storage
from bot.types.engine import Engine, LoadedModel, LoadProgress, ModelSource
from bot.types.errors import ConfigError, StateLocked

REMEMBERED = {"model": "model", "temperature": "temperature", "max_tokens": "max_tokens", "system_prompt": "system"}
"""Options that a chat command can also set and store, and their names in the storage."""

LOG_BYTES = 1_000_000
"""Maximum size of chat.log; a larger one is deleted at the start."""


def run_chat(settings: Settings, given: Set[str], once: str | None) -> int:
    """Chat until the user quits or the input ends; return the exit status. given: settings given as options.

    Raises InhouseError if the service cannot start or continue.
    """
    if once is not None and not once.strip():
        raise ConfigError("--once needs a question.")
    with _log_to_file(settings):
        if once is None and sys.stdin.isatty() and sys.stdout.isatty():
            return _chat_interactively(settings, given)
        lines = OneLine(once) if once is not None else PipedLines(io.FileIO(sys.stdin.fileno(), closefd=False))
        adapter = ConsoleAdapter(lines, PlainScreen(_lenient(sys.stdout), _lenient(sys.stderr)))
        with tempfile.TemporaryDirectory(prefix="inhouse-") as directory:
            _serve(settings, Path(directory), adapter, engine_for(settings))
        return int(adapter.failed)


def _chat_interactively(settings: Settings, given: Set[str]) -> int:
    """Run an interactive chat. A second chat at the same time stores nothing."""
    console = Console()
    screen = RichScreen(console, Path.cwd())
    catalog = Catalog.of(settings)
    if settings.engine != "openai" and installed(catalog.get(catalog.default), settings) is None:
        pull_model(settings, yes=False)
    console.print(Text.assemble((f"Inhouse {version()}", "bold"), "; /help shows the commands, Ctrl-D leaves.\n"))
    home = settings.state_dir / "chat"
    try:
        asyncio.run(_forget_settings(home, given))
        _serve(
            settings,
            home,
            ConsoleAdapter(TypedLines(home / "history"), screen),
            _ReportingEngine(engine_for(settings), screen),
        )
    except StateLocked:
        console.print("Another chat is open here, so this one will not be remembered.\n", style="dim")
        with tempfile.TemporaryDirectory(prefix="inhouse-") as directory:
            _serve(
                settings,
                Path(directory),
                ConsoleAdapter(TypedLines(None), screen),
                _ReportingEngine(engine_for(settings), screen),
            )
    return 0


def _serve(settings: Settings, state_dir: Path, adapter: ConsoleAdapter, engine: Engine) -> None:
    update = {"state_dir": state_dir, "http": None}  # only `inhouse run` serves the status page
    asyncio.run(serve(settings.model_copy(update=update), [adapter], engine, (signal.SIGTERM,)))


class _ReportingEngine:
    """An engine that prints a line about each loaded model: device, dtype and load time."""

    def __init__(self, engine: Engine, screen: RichScreen) -> None:
        self._engine, self._screen = engine, screen
        self.stream, self.abort, self.stats = engine.stream, engine.abort, engine.stats
        self.wait_until_unhealthy, self.close = engine.wait_until_unhealthy, engine.close

    async def load(self, source: ModelSource, progress: Callable[[LoadProgress], None]) -> LoadedModel:
        """Load the model, then print the line."""
        model = await self._engine.load(source, progress)
        line = f"{model.name} on {model.device}, {model.dtype}, loaded in {model.load_s:.1f} s. {model.note}"
        self._screen.remark(line.strip())
        return model


async def _forget_settings(home: Path, given: Set[str]) -> None:
    """Delete stored settings of the conversation that the command line overrides."""
    storage = await Storage.open(home)
    try:
        for option, name in REMEMBERED.items():
            if option in given:
                await storage.history.set(KEY, name, None)
    finally:
        await storage.close()


def _lenient(stream: TextIO) -> TextIO:
    """Make `stream` write '?' for characters outside its encoding, instead of raising in the middle of an answer."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


@contextmanager
def _log_to_file(settings: Settings) -> Iterator[None]:
    """Log to chat.log in the state directory, or discard the log if it cannot be written."""
    path = settings.state_dir / "chat.log"
    with ExitStack() as stack:
        try:
            settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.exists() and path.stat().st_size > LOG_BYTES:
                path.unlink()
            stream: TextIO = stack.enter_context(path.open("a", encoding="utf-8"))
        except OSError:
            stream = stack.enter_context(Path(os.devnull).open("a", encoding="utf-8"))
        setup_logs(settings.log_level, settings.log_format, secrets(settings), stream)
        try:
            yield
        finally:
            logging.getLogger().handlers.clear()  # the handler must not write to the closed file
