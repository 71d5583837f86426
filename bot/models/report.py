"""The table of `inhouse models`: every model, its size, the memory it needs at each number type, and whether it fits.

In: a catalog, the hardware and the settings. Out: rows of plain data, and a Rich table of them. Nothing is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from bot.config import Settings
from bot.models.catalog import Catalog
from bot.models.fit import Fit, Verdict, fits
from bot.models.hardware import MB, Hardware

COLUMNS = (("float32", "none"), ("bfloat16", "none"), ("float16", "none"), ("float16", "8bit"), ("float16", "4bit"))
"""Number type and quantization of each memory column."""

STYLES = {Verdict.FITS: "green", Verdict.TIGHT: "yellow", Verdict.WONT_FIT: "red", Verdict.UNKNOWN: "dim"}


@dataclass(frozen=True, slots=True)
class Row:
    """One model. memory_mb: as in COLUMNS, 0 where not known. fit: as the settings load it. offered: to people."""

    name: str
    parameters: int
    download: int
    context_window: int
    licence: str
    gated: bool
    memory_mb: tuple[int, ...]
    fit: Fit
    offered: bool
    here: bool


def rows(catalog: Catalog, hardware: Hardware, settings: Settings, here: frozenset[str] = frozenset()) -> list[Row]:
    """A row for every model of the catalog, smallest first; `here` are the names of those on this disk."""
    found = []
    for spec in sorted(catalog, key=lambda spec: (spec.parameters or 10**15, spec.name)):
        estimates = [fits(spec, hardware, dtype, bits, None, settings.kv_cache_mb) for dtype, bits in COLUMNS]
        fit = fits(spec, hardware, settings.dtype, settings.quantization, settings.gpu_layers, settings.kv_cache_mb)
        found.append(
            Row(
                name=spec.name,
                parameters=spec.parameters,
                download=spec.download,
                context_window=spec.context_window,
                licence=spec.licence,
                gated=spec.gated,
                memory_mb=tuple(estimate.needed_mb for estimate in estimates),
                fit=fit,
                offered=spec.name in catalog.names,
                here=spec.name in here,
            )
        )
    return found


def table(found: Sequence[Row]) -> Table:
    """The rows as a Rich table."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("model", no_wrap=True)
    for heading in ("size", "download", "window", "fp32", "bf16", "fp16", "8bit", "4bit"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("this machine")
    shown.add_column("licence")
    for row in found:
        verdict = f"[{STYLES[row.fit.verdict]}]{row.fit.verdict}[/] ({row.fit.dtype})"
        shown.add_row(
            row.name + (" [dim](here)[/]" if row.here else ""),
            human(row.parameters, "") if row.parameters else "?",
            human(row.download, "B") if row.download else "?",
            f"{row.context_window:,}" if row.context_window else "?",
            *(human(mb * MB, "B") if mb else "?" for mb in row.memory_mb),
            verdict,
            (row.licence or "?") + (" (ask for access)" if row.gated else ""),
        )
    return shown


def human(amount: float, unit: str) -> str:
    """A number with its unit: 272.6 MB, 14.7 G."""
    for prefix in ("", "k", "M"):
        if amount < 1000:
            return f"{amount:.1f} {prefix}{unit}" if prefix else f"{amount:.0f} {unit}".strip()
        amount /= 1000
    return f"{amount:.1f} G{unit}"
