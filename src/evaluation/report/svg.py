"""Score against cost as an SVG that is the same byte for byte wherever it is made, and follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from umamba.drawing.palette import network_colour

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:13px}.a{fill:#57606a;font-size:11px}"
    ".g{stroke:#d0d7de;stroke-width:1}.f{fill:none;stroke:#8c959f}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.a{fill:#9198a1}.g{stroke:#3d444d}.f{stroke:#656c76}}"
)
# Beside a colour, for print and for those who see none; the fifth network's is the first's again.
_SHAPES = ("circle", "square", "diamond", "triangle")
_WIDTH, _HEIGHT, _GAP = 270, 190, 62  # of a panel in px, and between panels
_PER_ROW = 3
_MARK = 11.0  # width of a mark and the gap to the next, px


@dataclass(frozen=True, kw_only=True)
class Point:
    """A network in a panel: cost, score and its interval."""

    network: str
    cost: float
    score: float
    low: float
    high: float


def cost_panels(panels: Mapping[str, Sequence[Point]], titles: Mapping[str, str], x_title: str, y_title: str) -> str:
    """Panels of points with error bars, cost on a logarithmic axis."""
    marks = {n: (network_colour(i), _SHAPES[i % len(_SHAPES)]) for i, n in enumerate(titles)}
    columns = min(_PER_ROW, len(panels))
    width = columns * (_WIDTH + _GAP) + 10
    legend, legend_height = _legend(titles, marks, width)
    rows = -(-len(panels) // _PER_ROW)
    height = legend_height + rows * (_HEIGHT + 76)
    parts = [legend]
    for index, (title, points) in enumerate(panels.items()):
        x = _GAP - 8 + (index % _PER_ROW) * (_WIDTH + _GAP)
        y = legend_height + (index // _PER_ROW) * (_HEIGHT + 76) + 24
        parts.append(f'<g transform="translate({x} {y})">{_panel(title, points, marks, x_title, y_title)}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(y_title)} against {escape(x_title)}"><style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panel(
    title: str, points: Sequence[Point], marks: Mapping[str, tuple[str, str]], x_title: str, y_title: str
) -> str:
    low, high = min(p.low for p in points), max(p.high for p in points)
    step = _nice((high - low or 0.01) / 4)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    costs = [math.log10(p.cost) for p in points]
    left, right = min(costs) - 0.1, max(costs) + 0.1
    decimals = max(0, -math.floor(math.log10(step)))

    def across(cost: float) -> float:
        return (math.log10(cost) - left) / (right - left) * _WIDTH

    def up(score: float) -> float:
        return _HEIGHT - (score - low) / (high - low or 1) * _HEIGHT

    parts = [f'<text class="t" x="0" y="-8">{escape(title)}</text>']
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        parts.append(f'<line class="g" x1="0" x2="{_WIDTH}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>')
        parts.append(f'<text class="a" x="-6" y="{up(value) + 4:.1f}" text-anchor="end">{value:.{decimals}f}</text>')
    for value in _log_ticks(left, right):
        parts.append(f'<line class="g" x1="{across(value):.1f}" x2="{across(value):.1f}" y1="0" y2="{_HEIGHT}"/>')
        parts.append(
            f'<text class="a" x="{across(value):.1f}" y="{_HEIGHT + 16}" text-anchor="middle">{value:g}</text>'
        )
    parts.append(f'<rect class="f" width="{_WIDTH}" height="{_HEIGHT}"/>')
    parts.append(
        f'<text class="a" x="{_WIDTH / 2:.0f}" y="{_HEIGHT + 33}" text-anchor="middle">{escape(x_title)}</text>'
    )
    parts.append(f'<text class="a" transform="translate(-42 {_HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">'
                 f"{escape(y_title)}</text>")  # fmt: skip
    ordered = sorted(points, key=lambda point: point.cost)
    for point, x in zip(ordered, _apart([across(point.cost) for point in ordered]), strict=True):
        colour, shape = marks[point.network]
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(point.low):.1f}" y2="{up(point.high):.1f}" stroke="{colour}" '
            'stroke-width="1.5"/>'
        )
        parts.append(_mark(x, up(point.score), colour, shape))
    return "".join(parts)


def _legend(titles: Mapping[str, str], marks: Mapping[str, tuple[str, str]], width: int) -> tuple[str, int]:
    parts, x, y = [], 8, 14
    for network, title in titles.items():
        needed = 34 + 7 * len(title)
        if x + needed > width and x > 8:
            x, y = 8, y + 20
        parts.append(_mark(x + 6, y - 4, *marks[network]) + f'<text x="{x + 16}" y="{y}">{escape(title)}</text>')
        x += needed
    return "".join(parts), y + 14


def _mark(x: float, y: float, colour: str, shape: str) -> str:
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'
    if shape == "square":
        return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" fill="{colour}"/>'
    path = "l6 6l-6 6l-6 -6z" if shape == "diamond" else "l6 10.5h-12z"
    return f'<path d="M{x:.1f} {y - 6:.1f}{path}" fill="{colour}"/>'


def _apart(places: Sequence[float]) -> list[float]:
    """Sorted places of marks on the horizontal axis; marks that would cover each other stand side by side."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + _MARK) if moved else place)
    limit = _WIDTH - _MARK / 2
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - _MARK
    return moved


def _nice(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least this."""
    power = 10 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _log_ticks(left: float, right: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two logarithms; where these are one or none, each first digit or tenth."""
    powers = range(math.floor(left), math.ceil(right) + 1)
    ticks: list[float] = []
    for factors in ((1, 2, 5), range(1, 10), [tenths / 10 for tenths in range(10, 100)]):
        if len(ticks) < 2:
            ticks = [f * 10.0**power for power in powers for f in factors if left <= math.log10(f) + power <= right]
    return [float(f"{tick:.3g}") for tick in ticks]
