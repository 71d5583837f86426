"""Build the output of `inhouse models`: download size, memory and fit of every model, as tables or JSON.

Loads no model: sizes come from the catalog, memory from `bot.models.fit`, the order from `bot.models.ways`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rich.table import Table
from rich.text import Text

from bot.config.settings import Settings
from bot.models.catalog import Catalog
from bot.models.decode_speed import speed
from bot.models.fit import Fit, Verdict, fits
from bot.models.hardware import MB, Hardware
from bot.models.model_files import described
from bot.models.model_spec import ModelSpec
from bot.models.ways import CPU_PARAMETERS, ENGINES, Way, best_way, place, way

MEMORY = (
    ("float32", "float32", "none"),
    ("bfloat16", "bfloat16", "none"),
    ("float16", "float16", "none"),
    ("8bit", "float16", "8bit"),
    ("4bit", "float16", "4bit"),
)
"""Heading, dtype and quantization of each column of the memory table."""

SIZES = {"download", "needs", "tokens/s", "parameters", "window", *(heading for heading, _, _ in MEMORY)}
"""Headings of right-aligned columns."""

FIT_WORDS = {Verdict.FITS: "yes", Verdict.TIGHT: "tight", Verdict.WONT_FIT: "no", Verdict.UNKNOWN: "?"}
STYLES = {
    Verdict.FITS: "green",
    Verdict.TIGHT: "yellow",
    Verdict.WONT_FIT: "red",
    Verdict.UNKNOWN: "dim",
    Verdict.NEEDS: "red",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One model. way: how it is run. offered: users may choose it in the chat. installed: complete on this disk.

    memory_mb: in the order of MEMORY, 0 if unknown.
    """

    spec: ModelSpec
    way: Way
    offered: bool
    installed: bool
    memory_mb: tuple[int, ...] = ()

    @property
    def fit(self) -> Fit:
        """How well it fits, run this way."""
        return self.way.fit


def rows(
    catalog: Catalog, hardware: Hardware, settings: Settings, here: Mapping[str, Path] = MappingProxyType({})
) -> list[Row]:
    """A row for every model of the catalog, smallest first. here: directories and files of the installed models."""

    def memory_mb(spec: ModelSpec, dtype: str, quantization: str) -> int:
        found = fits(spec, hardware, dtype, quantization, None, settings.kv_cache_mb, settings.engine)
        return found.needed_mb

    specs = [described(spec, here.get(spec.name)) for spec in catalog]

    return [
        Row(
            spec=spec,
            way=way(spec, hardware, settings, settings.engine),
            offered=spec.name in catalog.names,
            installed=spec.name in here,
            memory_mb=tuple(memory_mb(spec, dtype, bits) for _, dtype, bits in MEMORY),
        )
        for spec in sorted(specs, key=lambda spec: (spec.parameters or 10**15, spec.name))
    ]


def ranking(
    catalog: Catalog,
    hardware: Hardware,
    settings: Settings,
    engines: Iterable[str],
    here: Mapping[tuple[str, str], Path] = MappingProxyType({}),
) -> list[Row]:
    """A row for every model of the catalog with the best way to run it, best model first.

    What else runs now does not change it: it is for the machine while only its system runs. catalog: for the engine
    auto. here: the installed models, by engine and name.
    """
    engines, hardware = tuple(engines), hardware.idle
    found = []
    for spec in catalog:
        installed = [here[engine, spec.name] for engine in engines if (engine, spec.name) in here]
        chosen = best_way(described(spec, next(iter(installed), None)), hardware, settings, engines)
        on_disk = (chosen.engine, spec.name) in here
        found.append(Row(chosen.spec, chosen, offered=spec.name in catalog.names, installed=on_disk))
    return ordered(found, hardware)


def ordered(found: Iterable[Row], hardware: Hardware) -> list[Row]:
    """The rows, best model first."""
    return sorted(found, key=lambda row: place(row.way, hardware, installed=row.installed))


def best(found: Sequence[Row], hardware: Hardware) -> Row | None:
    """The best general model that fits and is installed or not gated; on a CPU with at most CPU_PARAMETERS a token."""
    wanted = [
        row
        for row in found
        if row.fit.verdict is Verdict.FITS
        and not row.spec.focus
        and (row.installed or not row.spec.gated)
        and (hardware.gpu or not _large(row))
    ]
    return next(iter(ordered(wanted, hardware)), None)


def shortage(row: Row, hardware: Hardware, settings: Settings) -> str:
    """A sentence if less memory is free now than a model of `ranking` needs with room to spare; else ''."""
    now = way(row.spec, hardware, settings, row.way.engine).fit
    return now.sentence if row.way.usable and now.verdict is not Verdict.FITS else ""


def notes(found: Sequence[Row], hardware: Hardware) -> list[str]:
    """Notes below the overview: gated models, slow models on a CPU."""
    lines = []
    if any(row.spec.gated for row in found):
        lines.append("gated: accept the licence on its hub page, then run `inhouse login`.")
    if not hardware.gpu and any(_large(row) and row.fit.verdict is Verdict.FITS for row in found):
        lines.append(f"Without a GPU, models above {CPU_PARAMETERS / 1e9:g} billion parameters are slow.")
    return lines


def overview(found: Sequence[Row], hardware: Hardware) -> Table:
    """A table of name, download size, memory and fit; at most 80 columns wide with the built-in catalog."""
    shown = _table("model", "download", "needs", "fits", "")
    place = "GPU" if hardware.gpu else "RAM"
    for row in found:
        needs = f"{_size(row.fit.needed_mb * MB)} {place}" if row.fit.needed_mb else "?"
        verdict = Text(FIT_WORDS.get(row.fit.verdict, row.fit.words), style=STYLES[row.fit.verdict])
        marks = ("installed" if row.installed else "", row.spec.focus, "gated" if row.spec.gated else "")
        shown.add_row(row.spec.name, _size(row.spec.download), needs, verdict, ", ".join(filter(None, marks)))
    return shown


def fits_table(found: Sequence[Row]) -> Table:
    """The table of `inhouse models --fits`: how to run each model that fits, best model first; at most 80 columns."""
    shown = _table("model", "with", "weights", "needs", "tokens/s", "fits")
    for row in found:
        if not row.way.usable:
            continue
        verdict = Text(FIT_WORDS[row.fit.verdict], style=STYLES[row.fit.verdict])
        alone = "" if row.way.together else "one at a time"
        for mark in filter(None, (row.spec.focus, "gated" if row.spec.gated else "", alone)):
            verdict.append(f", {mark}", style="")
        needs = _size(row.fit.needed_mb * MB)
        shown.add_row(row.spec.name, ENGINES[row.way.engine], row.way.weights, needs, speed(row.way.tokens_s), verdict)
    return shown


def details(found: Sequence[Row]) -> list[Table]:
    """The tables that --all adds: memory by dtype; parameters, context window and licence; repository."""
    memory = _table("memory", *(heading for heading, _, _ in MEMORY))
    facts = _table("facts", "parameters", "window", "licence")
    sources = _table("source", "")
    for row in found:
        spec = row.spec
        memory.add_row(spec.name, *(_size(mb * MB) for mb in row.memory_mb))
        window = f"{spec.context_window:,}" if spec.context_window else "?"
        facts.add_row(spec.name, human(spec.parameters, "") if spec.parameters else "?", window, spec.licence or "?")
        sources.add_row(spec.name, spec.source)
    return [memory, facts, sources]


def ranking_as_json(found: Sequence[Row]) -> list[dict[str, object]]:
    """The rows of a ranking as plain data, best model first. Memory is in MB; unknown values are None."""
    return [
        {
            "name": row.spec.name,
            "engine": row.way.engine,
            "source": row.spec.source,
            "weights": row.way.weights,
            "fits": row.fit.words,
            "needs_mb": row.fit.needed_mb or None,
            "free_mb": row.fit.available_mb,
            "tokens_s": round(row.way.tokens_s, 1) or None,
            "together": row.way.together,
            "installed": row.installed,
            "gated": row.spec.gated,
            "focus": row.spec.focus or None,
        }
        for row in found
    ]


def as_json(found: Sequence[Row], hardware: Hardware, default: str, chosen: str) -> list[dict[str, object]]:
    """The rows as plain data. Sizes are in MB, except `download` in bytes; unknown values are None.

    default, chosen: names of the default and of the best model.
    """
    return [
        {
            "name": row.spec.name,
            "repository": row.spec.repo or None,
            "file": row.spec.file or None,
            "path": row.spec.path or None,
            "installed": row.installed,
            "offered": row.offered,
            "default": row.spec.name == default,
            "best": row.spec.name == chosen,
            "fits": row.fit.words,
            "needs_mb": row.fit.needed_mb or None,
            "free_mb": row.fit.available_mb,
            "device": hardware.device,
            "dtype": row.fit.dtype,
            "quantization": row.spec.quantization or None,
            "download": row.spec.download or None,
            "parameters": row.spec.parameters or None,
            "context_window": row.spec.context_window or None,
            "licence": row.spec.licence or None,
            "licence_url": row.spec.licence_url or None,
            "gated": row.spec.gated,
            "focus": row.spec.focus or None,
            "memory_mb": {heading: mb or None for (heading, _, _), mb in zip(MEMORY, row.memory_mb, strict=True)},
        }
        for row in found
    ]


def human(amount: float, unit: str) -> str:
    """Format a number with its unit: 272.6 MB, 14.7 G."""
    for prefix in ("", "k", "M"):
        if amount < 1000:
            return f"{amount:.1f} {prefix}{unit}" if prefix else f"{amount:.0f} {unit}".strip()
        amount /= 1000
    return f"{amount:.1f} G{unit}"


def _table(*headings: str) -> Table:
    """An empty table with these column headings."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        shown.add_column(heading, justify="right" if heading in SIZES else "left", overflow="fold")
    return shown


def _large(row: Row) -> bool:
    return (row.spec.active or row.spec.parameters) > CPU_PARAMETERS


def _size(amount: int) -> str:
    return human(amount, "B") if amount else "?"
