"""A chart as SVG text: panels side by side, a line a variant, one legend. No library, no script, no style of the page's.

Each x that was measured has its own place, at even distances; y begins at 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

COLOURS = ("#b2182b", "#ef8a62", "#c9a227", "#67a9cf", "#2166ac", "#1b7837", "#762a83", "#555555")
WIDTH, HEIGHT, GAP, TOP, LEGEND = 300, 210, 70, 60, 26


class Line(NamedTuple):
    """A name and its points."""

    name: str
    points: Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One drawing. `title` says what y is, with its unit."""

    title: str
    x_title: str
    lines: Sequence[Line]


def chart(title: str, panels: Sequence[Panel], columns: int = 2) -> str:
    """All panels, `columns` a row."""
    rows = math.ceil(len(panels) / columns)
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)}
    width = columns * (WIDTH + GAP) + GAP // 2
    legend_rows = math.ceil(len(names) / 3)
    height = TOP + rows * (HEIGHT + GAP) + legend_rows * LEGEND
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-size="12"',
        'font-family="system-ui, sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{GAP}" y="28" font-size="17" font-weight="600" fill="#222222">{escape(title)}</text>',
    ]
    for at, panel in enumerate(panels):
        left = GAP + at % columns * (WIDTH + GAP)
        parts += _panel(panel, colours, left, TOP + at // columns * (HEIGHT + GAP))
    for at, name in enumerate(names):
        x, y = GAP + at % 3 * (width - GAP) // 3, TOP + rows * (HEIGHT + GAP) + at // 3 * LEGEND
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}" stroke="{colours[name]}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 28}" y="{y + 4}" fill="#222222">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, colours: dict[str, str], left: int, top: int) -> list[str]:
    places = sorted({x for line in panel.lines for x, _ in line.points})
    values = [y for line in panel.lines for _, y in line.points]
    ticks = _ticks(max(values, default=1.0))
    bottom = top + HEIGHT

    def x_of(x: float) -> float:
        return left + (places.index(x) + 0.5) * WIDTH / len(places)

    def y_of(y: float) -> float:
        return bottom - y / ticks[-1] * (HEIGHT - 20)

    parts = [f'<text x="{left}" y="{top}" font-weight="600" fill="#222222">{escape(panel.title)}</text>']
    for tick in ticks:
        y = y_of(tick)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{_short(tick)}</text>')
    parts += [
        f'<text x="{x_of(x):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555555">{x:g}</text>' for x in places
    ]
    parts.append(
        f'<text x="{left + WIDTH}" y="{bottom + 32}" text-anchor="end" fill="#555555">{escape(panel.x_title)}</text>'
    )
    for line in panel.lines:
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        colour = colours[line.name]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{colour}"/>' for x, y in line.points]
    return parts


def _ticks(greatest: float) -> list[float]:
    """0 and up to five round numbers, the last no less than the greatest value."""
    if greatest <= 0:
        return [0.0, 1.0]
    raw = greatest / 4
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * each for each in (1, 2, 2.5, 5, 10) if size * each >= raw)
    return [step * at for at in range(math.ceil(greatest / step) + 1)]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
