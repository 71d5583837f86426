"""Print what `inhouse models --fits` recommends on cards of five sizes: `python -m bench.fits_table`.

docs/models.md has this table between MARKS; `--write` puts the current one there, and a test compares them.
"""

import argparse
from pathlib import Path

from bot.cli.model_ranking import rank_models
from bot.config.settings import load_settings
from bot.models.hardware import MB, Hardware
from bot.models.model_table import Row, human
from bot.models.ways import ENGINES

CARDS = {
    "8 GB (RTX 4060)": (8188, 272.0),
    "16 GB (RTX 5060 Ti)": (16_311, 448.0),
    "24 GB (RTX 4090)": (24_564, 1008.0),
    "48 GB (L40S)": (46_068, 864.0),
    "80 GB (H100)": (81_559, 3350.0),
}
"""Cards: their memory in MB, and its bandwidth in GB/s."""
DESKTOP_MB = 500
"""Memory that is not free on an idle card."""
SHOWN = 3
"""Models shown for each card."""

DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
MARKS = "<!-- fits: python -m bench.fits_table --write -->", "<!-- end of fits -->"


def card(name: str) -> Hardware:
    """A machine with a card of CARDS and 64 GB of RAM."""
    total, speed = CARDS[name]
    return Hardware(name, "13.0", total, total - DESKTOP_MB, True, "a CPU", 16, 64_000, 60_000, read_gb_s=speed)


def ranked(name: str) -> list[Row]:
    """The models of the built-in catalog on this card, best model first; each engine counts as installed."""
    return rank_models(load_settings(model="smollm2"), card(name), ENGINES)


def table() -> str:
    """The table in Markdown."""
    lines = ["| card | best | then | then |", "| --- | --- | --- | --- |"]
    for name in CARDS:
        cells = [_cell(row, first=number == 0) for number, row in enumerate(ranked(name)[:SHOWN])]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def in_document() -> str:
    """The table that docs/models.md has."""
    return DOCUMENT.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0].strip()


def _cell(row: Row, *, first: bool) -> str:
    name = f"**{row.spec.name}**" if first else row.spec.name
    return f"{name}, {ENGINES[row.way.engine]}, {row.way.weights}, {human(row.fit.needed_mb * MB, 'B')}"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    found = table()
    if not parser.parse_args().write:
        print(found)
        return
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    DOCUMENT.write_text(f"{before}{MARKS[0]}\n\n{found}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
