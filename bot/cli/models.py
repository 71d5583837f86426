"""`inhouse models | pull | login`: what bot.models knows and does, shown to a person.

In: settings and what the person typed. Out: tables and progress; errors are ModelError or ConfigError. Only the table
needs torch, to see the hardware, and loads it in a one-shot process.
"""

import asyncio
import getpass
import sys

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bot.config import Settings
from bot.errors import ConfigError
from bot.models.catalog import Catalog
from bot.models.hardware import describe_hardware, probe
from bot.models.hub import installed, login, plan, pull
from bot.models.report import human, rows, table
from bot.models.repository import Download
from bot.models.spec import ModelSpec
from bot.models.weights import PullProgress

PIPE_WIDTH = 160
"""Columns where there is no window to fit into."""


def show_models(settings: Settings) -> None:
    """Print the hardware and the table of models."""
    catalog = Catalog.of(settings)
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    with Console(stderr=True).status("looking at the hardware"):
        hardware = asyncio.run(probe(settings.device))
    console.print(describe_hardware(hardware), "", sep="\n", markup=False)
    here = frozenset(spec.name for spec in catalog if installed(spec, settings))
    console.print(table(rows(catalog, hardware, settings, here)))


def pull_model(settings: Settings, *, yes: bool) -> None:
    """Fetch the model of the settings: its licence and size first, then a question (of people only), then a bar.

    Raises ModelError, or typer.Abort if the answer was no.
    """
    catalog = Catalog.of(settings)
    spec = catalog.get(catalog.default)
    console = Console(stderr=True, highlight=False)
    found = installed(spec, settings)
    if found is not None:
        console.print(f"{spec.name} is here: {found}", markup=False, soft_wrap=True)
        return
    download = plan(spec, settings)
    console.print(_offer(download), markup=False, soft_wrap=True)
    if not yes and sys.stdin.isatty():
        typer.confirm("Fetch it?", default=True, abort=True, err=True)
    _fetch(spec, settings, download, console)
    console.print(f"{spec.name} is ready.", markup=False)


def log_in(settings: Settings) -> None:
    """Ask for a token (unseen; or take a line of stdin), verify it and store it."""
    from huggingface_hub import constants

    if sys.stdin.isatty():
        typer.echo(f"A token is made at {constants.ENDPOINT}/settings/tokens; it needs to read only.", err=True)
        token = getpass.getpass("Token (not shown): ")
    else:
        token = sys.stdin.readline()
    if not token.strip():
        raise ConfigError("No token was given.")
    typer.echo(login(settings, token.strip()))


def _offer(download: Download) -> str:
    lines = [
        f"{download.name} from {download.origin}",
        f"licence: {download.licence} {f'({download.licence_url})' if download.licence_url else ''}".rstrip(),
        f"size: {human(download.total, 'B')}",
    ]
    if download.missing < download.total:
        lines[-1] += f", {human(download.missing, 'B')} of it not here yet"
    return "\n".join(lines)


def _fetch(spec: ModelSpec, settings: Settings, download: Download, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("fetching", total=None, amount="")

        def show(step: PullProgress) -> None:
            amount = f"{human(step.done, 'B')} of {human(step.total, 'B')}" if step.stage == "fetching" else ""
            if bar.tasks[0].description != step.stage:
                bar.reset(task, description=step.stage, amount=amount)
            bar.update(task, completed=step.done, total=step.total or None, amount=amount)

        pull(spec, settings, show, download)
