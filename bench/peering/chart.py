"""Draws the figures as an SVG for light and dark backgrounds.

Four panels (speed, time to the first text of first and of later turns, memory) with a line for every peer over the
number of conversations. Titles mark logarithmic axes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from bench.peering.results import Figures

WIDTH, HEIGHT, TOP, LEFT, GAP = 300, 220, 64, 56, 76
COLOURS = ("#d1495b", "#00798c", "#c98a1b", "#5b4bb5", "#3c8d3f", "#b0568f", "#777777")
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #333 }
  .title { font-weight: 600 } .grid { stroke: #ccc; stroke-width: 1 } .ground { fill: #fff }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } .grid { stroke: #444 } .ground { fill: #16181d } }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel's title, value and axis."""

    title: str
    value: Callable[[Figures], float]
    spread: Callable[[Figures], tuple[float, float]] | None = None
    logarithmic: bool = False


PANELS = (
    Panel("tokens/s, median and range", lambda row: row.speed, lambda row: (row.slowest, row.fastest)),
    Panel("first text of a first turn, ms, median (log)", lambda row: row.first, logarithmic=True),
    Panel("first text of later turns, ms, median (log)", lambda row: row.later, logarithmic=True),
    Panel("resident memory, MB", lambda row: row.peak_mb),
)


def ticks(highest: float) -> list[float]:
    """Axis marks from 0 in at most six round steps to at least `highest`."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [step * number for number in range(math.ceil(highest / step) + 1)]


def decades(lowest: float, highest: float) -> list[float]:
    """Powers of ten that enclose both values."""
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def draw(rows: Sequence[Figures]) -> str:
    """The whole SVG."""
    peers = list(dict.fromkeys(row.peer for row in rows))
    colours = {peer: COLOURS[number % len(COLOURS)] for number, peer in enumerate(peers)}
    width, height = 2 * (LEFT + WIDTH) + GAP, TOP + 2 * (HEIGHT + GAP)
    body = [f'<rect class="ground" width="{width}" height="{height}"/>', _legend(colours)]
    for number, panel in enumerate(PANELS if rows else ()):
        x, y = LEFT + (number % 2) * (WIDTH + GAP), TOP + (number // 2) * (HEIGHT + GAP)
        body.append(f'<g transform="translate({x} {y})">{_panel(panel, rows, colours)}</g>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    return "\n".join([head, "<title>Inhouse beside others</title>", f"<style>{STYLE}</style>", *body, "</svg>\n"])


def _legend(colours: dict[str, str]) -> str:
    parts = []
    for number, (peer, colour) in enumerate(colours.items()):
        x = LEFT + number * 120
        parts.append(f'<circle cx="{x}" cy="20" r="5" fill="{colour}"/><text x="{x + 10}" y="24">{escape(peer)}</text>')
    return "".join(parts)


def _panel(panel: Panel, rows: Sequence[Figures], colours: dict[str, str]) -> str:
    known = [row for row in rows if panel.value(row) > 0]
    if not known:
        return ""
    reach = [panel.spread(row)[1] if panel.spread else panel.value(row) for row in known]
    marks = decades(min(map(panel.value, known)), max(reach)) if panel.logarithmic else ticks(max(reach))
    scale = math.log10 if panel.logarithmic else float
    low, high = scale(marks[0]), scale(marks[-1])
    numbers = sorted({row.conversations for row in rows})

    def across(conversations: int) -> float:
        return WIDTH * (numbers.index(conversations) + 0.5) / len(numbers)

    def up(value: float) -> float:
        return HEIGHT * (1 - (scale(value) - low) / (high - low))

    parts = [f'<text class="title" y="-12">{escape(panel.title)}</text>']
    for mark in marks:
        parts.append(f'<path class="grid" d="M0 {up(mark):.1f}H{WIDTH}"/>')
        parts.append(f'<text x="-6" y="{up(mark) + 4:.1f}" text-anchor="end">{mark:,g}</text>')
    for each in numbers:
        parts.append(f'<text x="{across(each):.1f}" y="{HEIGHT + 16}" text-anchor="middle">{each}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT + 34}" text-anchor="middle">conversations at once</text>')
    for peer, colour in colours.items():
        line = [row for row in known if row.peer == peer]
        points = " ".join(f"{across(row.conversations):.1f},{up(panel.value(row)):.1f}" for row in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for row in line:
            x = across(row.conversations)
            parts.append(f'<circle cx="{x:.1f}" cy="{up(panel.value(row)):.1f}" r="3.5" fill="{colour}"/>')
            if panel.spread:
                least, most = panel.spread(row)
                parts.append(f'<path d="M{x:.1f} {up(least):.1f}V{up(most):.1f}" stroke="{colour}"/>')
    return "".join(parts)
