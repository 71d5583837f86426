"""Implement `inhouse models`, `inhouse pull`, `inhouse remove` and `inhouse login`.

Errors are ModelError or ConfigError. Only `models` uses torch, in a child process that detects the hardware.
"""

import asyncio
import getpass
import json
import re
import sys
import urllib.request

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from bot.cli.model_ranking import advice, chosen_engines, is_missing, missing, rank_models
from bot.config.settings import Settings
from bot.models.catalog import Catalog
from bot.models.file_download import PullProgress
from bot.models.hardware import describe_hardware, probe
from bot.models.hub_client import Download
from bot.models.model_report import as_data, report, tables
from bot.models.model_spec import ModelSpec
from bot.models.model_table import as_json, best, details, human, notes, overview, rows
from bot.models.pull import installed, login, plan, pull
from bot.models.removal import stored
from bot.storage import is_held
from bot.types.errors import ConfigError, ModelError

PIPE_WIDTH = 160
"""Width of tables if stdout is not a terminal, in columns."""

METRICS_S = 2.0
"""Timeout of the request to a running service's /metrics, seconds."""


def show_models(settings: Settings, *, everything: bool, json_only: bool) -> None:
    """Print the hardware, a table of models and the best one, or JSON. everything: include dtypes and repositories."""
    if settings.engine == "openai":
        asyncio.run(show_served_models(settings, json_only=json_only))
        return
    catalog = Catalog.of(settings)
    with Console(stderr=True).status("checking the hardware"):
        hardware = asyncio.run(probe(settings.device, settings.cache_dir, measure=True))
    here = {spec.name: path for spec in catalog if (path := installed(spec, settings))}
    found = rows(catalog, hardware, settings, here)
    ranked = rank_models(settings, hardware, chosen_engines(settings))
    chosen = best(ranked, hardware)
    if json_only:
        name = chosen.spec.name if chosen is not None else ""
        typer.echo(json.dumps(as_json(found, hardware, catalog.default, name), ensure_ascii=False, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    console.print(describe_hardware(hardware), markup=False)
    for table in (overview(found, hardware), *(details(found) if everything else ())):
        console.print()
        console.print(table)
    console.print()
    engine = chosen.way.engine if chosen is not None else ""
    lacks = [missing(engine)] if is_missing(engine) else []
    for line in (*notes(found, hardware), *lacks, *advice(ranked, hardware, settings)):
        console.print(line, markup=False, soft_wrap=True)


def show_model(settings: Settings, *, json_only: bool) -> None:
    """Print a report of the model of the settings: its format, shape, and how each engine could run it, or JSON.

    Raises ModelError or ConfigError.
    """
    from bot.engine.text.template_report import read_template

    catalog = Catalog.of(settings)
    spec = catalog.get(catalog.default)
    path = installed(spec, settings)
    with Console(stderr=True).status("checking the hardware"):
        hardware = asyncio.run(probe(settings.device, settings.cache_dir, measure=True))
    template = None
    if path is not None:
        template = asyncio.run(read_template(path, spec.template, spec.name))
    base = Catalog.of(settings.model_copy(update={"engine": "auto"})).get(catalog.default)
    found = report(base if path is None else spec, path, hardware, settings, template)
    if json_only:
        typer.echo(json.dumps(as_data(found), ensure_ascii=False, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    for table in tables(found, settings.engine):
        console.print(table)
        console.print()


async def show_served_models(settings: Settings, *, json_only: bool) -> None:
    """Print what each of the model's servers offers, or JSON."""
    from bot.engine.remote.remote_engine import RemoteEngine

    pool = RemoteEngine.of(settings).pool
    try:
        await pool.open()
        await pool.probe()
        servers = pool.servers
    finally:
        await pool.close()
    if json_only:
        found = [
            {"server": each.name, "kind": each.profile.title, "problem": each.problem, "models": each.models}
            for each in servers
        ]
        typer.echo(json.dumps({"model": settings.model, "servers": found}, ensure_ascii=False, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    table = Table("model", Column("window", justify="right"), "server", "abilities", box=None, pad_edge=False)
    for server in servers:
        for model, window in sorted(server.models.items()):
            where = Text(f"{server.profile.title} on {server.name}", overflow="fold")
            what = ", ".join(server.capabilities_of(model).abilities)
            table.add_row(Text(model, overflow="fold"), f"{window:,}" if window else "unknown", where, what)
    console.print(table)
    for server in servers:
        if server.problem:
            console.print(f"{server.name}: {server.problem}", markup=False)
    offered = any(server.offers(settings.model) for server in servers)
    verdict = f"INHOUSE_MODEL is {settings.model}" if offered else f"No server offers {settings.model} (INHOUSE_MODEL)"
    console.print(f"{verdict}.", markup=False)


def pull_model(settings: Settings, *, yes: bool) -> None:
    """Download the model of the settings: show licence and size, ask (on a terminal only), then show progress.

    Raises ModelError, or typer.Abort if the user declines.
    """
    if settings.engine == "openai":
        typer.echo("Models are on servers (INHOUSE_ENGINE=openai): there is nothing to pull.", err=True)
        return
    catalog = Catalog.of(settings)
    spec = catalog.get(catalog.default)
    console = Console(stderr=True, highlight=False)
    found = installed(spec, settings)
    if found is not None:
        console.print(f"{spec.name} is downloaded already: {found}", markup=False, soft_wrap=True)
        return
    download = plan(spec, settings)
    console.print(offer(download), markup=False, soft_wrap=True)
    if not yes and sys.stdin.isatty():
        typer.confirm("Download it?", default=True, abort=True, err=True)
    fetch(spec, settings, download, console)
    console.print(f"{spec.name} is ready.", markup=False)
    if spec.gguf and settings.engine == "auto":
        console.print("llama.cpp runs it: set INHOUSE_ENGINE=llama.cpp.", markup=False)


def remove_model(settings: Settings, *, yes: bool, default: str) -> None:
    """Delete the model of the settings: show its size, then ask. default: the value of INHOUSE_MODEL.

    Raises ModelError if the model is not installed or a running service uses it, ConfigError if stdin is not a terminal
    and `yes` is not set, and typer.Abort if the user declines.
    """
    catalog = Catalog.of(settings)
    spec = catalog.get(catalog.default)
    found = stored(spec, settings)
    if not found.paths:
        raise ModelError(f"{spec.name} is not downloaded, so there is nothing to remove.")
    in_use = default in (spec.name, spec.source)
    if is_held(settings.state_dir):
        loaded = loaded_model(settings)
        if loaded == spec.name or (loaded is None and in_use):
            raise ModelError(f"A running Inhouse uses {spec.name}: stop it, or switch it to another model, first.")
    console = Console(stderr=True, highlight=False)
    for path in found.paths:
        console.print(str(path), markup=False, soft_wrap=True)
    console.print(f"size: {human(found.bytes, 'B')}", markup=False)
    if in_use:
        note = f"{spec.name} is the default model (INHOUSE_MODEL): `inhouse run` does not start without it."
        console.print(note, markup=False, soft_wrap=True)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("remove asks before it deletes: run it in a terminal, or add --yes.")
        typer.confirm(f"Delete {spec.name}?", default=False, abort=True, err=True)
    found.delete()
    console.print(f"{spec.name} is deleted.", markup=False)


def loaded_model(settings: Settings) -> str | None:
    """The model that a running service has loaded, according to its /metrics; '' for none, None if unreadable."""
    if settings.http is None or not settings.http.port:
        return None
    request = urllib.request.Request(f"http://{settings.http}/metrics")
    if settings.http_token:
        request.add_header("Authorization", f"Bearer {settings.http_token.get_secret_value()}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=METRICS_S) as response:
            text = response.read().decode("utf-8", "replace")
    except OSError:
        return None
    named = re.search(r'^inhouse_model_loaded\{[^}]*model="([^"]*)"[^}]*\} 1', text, re.MULTILINE)
    return named[1] if named else ""


def log_in(settings: Settings) -> None:
    """Read a token (without echo on a terminal, else one line of stdin), verify it and store it."""
    from huggingface_hub import constants

    if sys.stdin.isatty():
        typer.echo(f"Create a token at {constants.ENDPOINT}/settings/tokens; a read-only one is enough.", err=True)
        token = getpass.getpass("Token (not shown): ")
    else:
        token = sys.stdin.readline()
    if not token.strip():
        raise ConfigError("No token was given.")
    typer.echo(login(settings, token.strip()))


def offer(download: Download) -> str:
    """The lines about a download that are shown before it: origin, licence, size."""
    lines = [
        f"{download.name} from {download.origin}",
        f"licence: {download.licence} {f'({download.licence_url})' if download.licence_url else ''}".rstrip(),
        f"size: {human(download.total, 'B')}",
    ]
    missing = human(download.missing, "B")
    if missing != human(download.total, "B"):
        lines[-1] += f", {missing} of it still to download"
    return "\n".join(lines)


def fetch(spec: ModelSpec, settings: Settings, download: Download, console: Console) -> None:
    """Download a model and show the progress. Raises ModelError."""
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
