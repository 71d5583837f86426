"""Rank the models of the catalog for this machine over all engines, for `inhouse models --fits` and `inhouse init`."""

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence

import typer
from rich.console import Console

from bot.config.settings import Settings
from bot.engine.local_server.server_commands import VLLM_FOLDER, find_program
from bot.models.catalog import Catalog
from bot.models.hardware import Hardware, describe_hardware, probe
from bot.models.model_table import Row, best, fits_table, ranking, ranking_as_json, shortage
from bot.models.pull import installed
from bot.models.ways import ENGINES
from bot.types.errors import ConfigError

WIDTH = 80
"""Width of the table, in columns."""

INSTALLATION = {
    "vllm": f"`python3 -m venv {VLLM_FOLDER} && {VLLM_FOLDER}/bin/pip install vllm`",
    "llama.cpp": "`pip install 'inhouse[llama-cpp]'`",
}
"""What installs the server of an engine."""


def chosen_engines(settings: Settings) -> tuple[str, ...]:
    """The engine that the operator chose, or all that run a model on this machine."""
    chosen = "engine" in settings.model_fields_set and settings.engine in ENGINES
    return (settings.engine,) if chosen else tuple(ENGINES)


def is_missing(engine: str) -> bool:
    """Whether an engine needs a server that is not installed."""
    return engine in INSTALLATION and not find_program(engine)


def base_catalog(settings: Settings) -> Catalog:
    """The catalog before an engine chooses among variants; the built-in one where the settings have a mistake in it."""
    try:
        if settings.engine != "openai":
            return Catalog.of(settings.model_copy(update={"engine": "auto"}))
    except ConfigError:  # INHOUSE_MODEL, INHOUSE_MODELS or the file is wrong, which a choice may correct
        pass
    return Catalog.of(settings.model_copy(update={"engine": "auto", "model": "smollm2", "models": (), "catalog": None}))


def rank_models(settings: Settings, hardware: Hardware, engines: Iterable[str]) -> list[Row]:
    """All models of the catalog with the best way to run each with one of these engines, best model first."""
    catalog, engines = base_catalog(settings), tuple(engines)
    here = {
        (engine, spec.name): path
        for engine in engines
        for spec in catalog
        if (path := installed(spec.for_engine(engine), settings))
    }
    return ranking(catalog, hardware, settings, engines, here)


def show_fits(settings: Settings, *, json_only: bool) -> None:
    """Print the models that fit this machine with the best way to run each, best model first, or all as JSON."""
    with Console(stderr=True).status("measuring the hardware"):
        hardware = asyncio.run(probe(settings.device, settings.cache_dir, measure=True))
    found = rank_models(settings, hardware, chosen_engines(settings))
    if json_only:
        typer.echo(json.dumps(ranking_as_json(found), ensure_ascii=False, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    console.print(describe_hardware(hardware), markup=False)
    console.print()
    console.print(fits_table(found))
    console.print()
    for line in (*notes(found), *advice(found, hardware, settings)):
        console.print(line, markup=False, soft_wrap=True)


def notes(found: Sequence[Row]) -> list[str]:
    """The lines below the table: how many do not fit, and what is to be installed."""
    lines = ["tokens/s: for one conversation; with vLLM and llama.cpp the most that the memory's bandwidth allows."]
    if others := sum(not row.way.usable for row in found):
        lines.append(f"{others} more do not fit; `inhouse models` lists them.")
    named = {row.way.engine for row in found if row.way.usable}
    return lines + [missing(each) for each in INSTALLATION if each in named and is_missing(each)]


def missing(engine: str) -> str:
    """What installs the server of an engine that is not installed."""
    return f"{ENGINES[engine]} is not installed: {INSTALLATION[engine]}."


def advice(found: Sequence[Row], hardware: Hardware, settings: Settings) -> list[str]:
    """The best model of a ranking for this machine and how to use it; then, if too little memory is free now, that."""
    row = best(found, hardware)
    if row is None:
        return [
            "Best for this machine: none of these fits. Add a smaller model (INHOUSE_CATALOG), or use a server "
            "(`inhouse init`)."
        ]
    engine, name = row.way.engine, row.spec.name
    title = f"{name} with {ENGINES[engine]}" if engine != "auto" else name
    prefix = f"INHOUSE_ENGINE={engine}" if engine != settings.engine else ""
    model = f"INHOUSE_MODEL={name}" if settings.model not in (name, row.spec.source) else ""
    changes = " and ".join(filter(None, (prefix, model)))
    pull = "" if row.installed else f"run `{f'{prefix} inhouse'.lstrip()} pull {name}`"
    steps = ", then ".join(filter(None, (changes and f"set {changes}", pull))) or "it is installed, and the default"
    line = f"Best for this machine: {title}. {steps[0].upper()}{steps[1:]}."
    return [line, *filter(None, [shortage(row, hardware, settings)])]
