"""Stores runs as JSON lines, aggregates them, and formats a table.

A run is one peer with one number of conversations in one round. Figures are medians and ranges over the rounds.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

HEADER = (
    "| conversations | peer | tokens/s (range) | first text of a first turn, ms: median / p95 | of later turns "
    "| memory, MB | |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True, slots=True)
class Run:
    """`first_ms`, `later_ms`: time to the first text of first and of later turns. `short`: answers below full
    length."""

    peer: str
    dtype: str
    round: int
    conversations: int
    seconds: float
    tokens: int
    first_ms: tuple[float, ...]
    later_ms: tuple[float, ...]
    peak_mb: float
    prompt_tokens: int
    short: int
    errors: tuple[str, ...]

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """One peer with one number of conversations, over all rounds. Units: milliseconds, tokens per second, MB."""

    peer: str
    conversations: int
    speed: float
    slowest: float
    fastest: float
    first: float
    first_p95: float
    later: float
    later_p95: float
    peak_mb: float
    remarks: str


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is at least as large as this share of the values; 0 if there are none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def figures(runs: Sequence[Run]) -> list[Figures]:
    """Figures by number of conversations, then by peer in order of first appearance."""
    cells: dict[tuple[int, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.conversations, run.peer), []).append(run)
    peers = list(dict.fromkeys(run.peer for run in runs))
    return [_figures(cells[key]) for key in sorted(cells, key=lambda key: (key[0], peers.index(key[1])))]


def _figures(runs: list[Run]) -> Figures:
    speeds = [run.speed for run in runs]
    first = [value for run in runs for value in run.first_ms]
    later = [value for run in runs for value in run.later_ms]
    errors = [error for run in runs for error in run.errors]
    remarks = [f"{len(errors)} errors, the first: {errors[0]}"] if errors else []
    remarks += [f"{short} answers ended early"] if (short := sum(run.short for run in runs)) else []
    return Figures(
        peer=runs[0].peer,
        conversations=runs[0].conversations,
        speed=median(speeds),
        slowest=min(speeds),
        fastest=max(speeds),
        first=percentile(first, 0.5),
        first_p95=percentile(first, 0.95),
        later=percentile(later, 0.5),
        later_p95=percentile(later, 0.95),
        peak_mb=max(run.peak_mb for run in runs),
        remarks="; ".join(remarks),
    )


def table(rows: Iterable[Figures], absent: dict[str, str]) -> str:
    """A Markdown table; `absent` gives the reasons for missing peers."""
    lines = [
        f"| {row.conversations} | {row.peer} | {row.speed:.1f} ({row.slowest:.1f} to {row.fastest:.1f}) "
        f"| {row.first:.0f} / {row.first_p95:.0f} | {row.later:.0f} / {row.later_p95:.0f} "
        f"| {row.peak_mb:,.0f} | {row.remarks} |"
        for row in rows
    ]
    lines += [f"| | {name} | | | | | {why} |".replace("\n", " ") for name, why in absent.items()]
    return "\n".join([HEADER, *lines])


def keep(run: Run, file: Path) -> None:
    """Appends a run."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(run)) + "\n")


def read(file: Path) -> list[Run]:
    """Reads all stored runs."""
    kept: Iterator[dict[str, Any]] = (json.loads(line) for line in file.read_text("utf-8").splitlines())
    return [Run(**{name: _frozen(value) for name, value in run.items()}) for run in kept]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
