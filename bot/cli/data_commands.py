"""Implement `inhouse export`, `inhouse backup`, `inhouse db copy` and `inhouse db upgrade`.

Data goes to files or stdout, messages to stderr. Errors are ConfigError or StorageError.
"""

import asyncio
import json
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bot.config.setting_types import PLATFORMS
from bot.config.settings import Settings
from bot.generation.user_messages import counted
from bot.models.model_table import human
from bot.storage.atomic_file import new_file
from bot.storage.backup import Progress as ReportProgress
from bot.storage.backup import back_up
from bot.storage.copy_to_server import copy_to_server
from bot.storage.export import ExportFilter, records
from bot.storage.manual_upgrade import upgrade
from bot.storage.postgresql import dump_command
from bot.types.errors import ConfigError


def export(
    settings: Settings,
    out: Path | None,
    conversations: Sequence[str],
    person: str | None,
    *,
    thoughts: bool,
    force: bool,
) -> None:
    """Write the selected records as JSON Lines to `out` or stdout, and their number to stderr."""
    filter_ = ExportFilter(tuple(map(_place, conversations)), None if person is None else _person(person), thoughts)
    with ExitStack() as stack:
        stream: BinaryIO = sys.stdout.buffer
        if out is not None:
            stream = stack.enter_context(stack.enter_context(new_file(out, force=force)).open("wb"))
        found: Counter[str] = Counter()
        try:
            for record in records(settings.state_dir, filter_, settings.database_url):
                stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                found[record["record"]] += 1
            stream.flush()
        except BrokenPipeError:  # the reader closed the pipe, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
    parts = ", ".join(counted(number, name) for name, number in found.items())
    typer.echo(f"Exported {parts or 'nothing: no stored message matches'}.", err=True)


def backup(settings: Settings, target: Path, *, force: bool) -> None:
    """Copy the database to `target`. Raises ConfigError for one on a server."""
    if settings.database_url is not None:
        raise ConfigError(
            f"The conversations are on a PostgreSQL server: back them up with `{dump_command(settings.database_url)} "
            f"--file {shlex.quote(str(target))}`."
        )
    with _bar("copying") as report:
        size = back_up(settings.state_dir, target, report, force=force)
    typer.echo(f"Copied the database of {settings.state_dir} to {target} ({human(size, 'B')}).", err=True)


def upgrade_database(settings: Settings) -> None:
    """Migrate the database to this version; print both versions to stderr."""
    with _bar("copying") as report:
        done = asyncio.run(upgrade(settings.state_dir, report, settings.database_url))
    if done.copy is None and done.before == done.after:
        place = "on the server" if settings.database_url else f"in {settings.state_dir}"
        typer.echo(f"The database {place} is up to date: version {done.after}.", err=True)
        return
    before = f"version {done.before}" if done.before else "an empty one"
    backup = f" The backup of the old one is {done.copy}." if done.copy else ""
    typer.echo(f"Upgraded the database from {before} to version {done.after}.{backup}", err=True)


def copy_database(settings: Settings) -> None:
    """Copy the database of the state directory to the server; print what was copied to stderr."""
    if settings.database_url is None:
        raise ConfigError(
            "Set INHOUSE_DATABASE_URL to an empty PostgreSQL database: postgresql://user:password@host/name."
        )
    with _bar("copying") as report:
        tables = copy_to_server(settings.state_dir, settings.database_url, report)
    for table in tables:
        earlier = "" if table.copied == table.rows else f", {table.rows - table.copied} of them by an earlier copy"
        typer.echo(f"  {table.name}: {counted(table.rows, 'row')}{earlier}", err=True)
    typer.echo(
        f"Copied the conversations of {settings.state_dir} to the server, and compared both: all is the same. `inhouse "
        "run` uses the server from now on; the file stays as a backup until you remove it.",
        err=True,
    )


def _place(text: str) -> tuple[str, ...]:
    parts = tuple(text.split("/"))
    if parts[0] not in PLATFORMS or len(parts) > 4:
        raise ConfigError(
            "--conversation must be platform/workspace/channel/thread or a prefix, such as slack/T0123/C0456, "
            f"not {text}."
        )
    return parts


def _person(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"(\w+):(\S+)", text)
    if found is None or found[1].lower() not in PLATFORMS:
        raise ConfigError(f"--person must be discord:<id> or slack:<id>, not {text}.")
    return found[1].lower(), found[2]


@contextmanager
def _bar(what: str) -> Iterator[ReportProgress]:
    """Show a progress bar if stderr is a terminal."""
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
