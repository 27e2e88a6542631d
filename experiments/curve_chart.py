"""Curves with bands as an SVG picture, panel beside panel; needs no plotting library, opens anywhere."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito 2008: told apart with any colour vision."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, GAP = 300.0, 220.0, 48.0, 42.0, 44.0, 14.0
TICKS = 4


@dataclass(frozen=True)
class Curve:
    """A group's values over effort; NaN where there are none."""

    name: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """Curves over one measure of effort."""

    axis: str
    curves: Sequence[Curve]


def chart(title: str, panels: Sequence[Panel], y_label: str) -> str:
    """The picture as SVG text; values lie between 0 and 1."""
    values = [v for p in panels for c in p.curves for v in (*c.mean, *c.low, *c.high) if not math.isnan(v)]
    bottom, top = _padded(min(values, default=0.0), max(values, default=1.0))
    names = [curve.name for curve in panels[0].curves]
    legend = 18.0 * len(names)
    width, height = len(panels) * (WIDTH + GAP) + LEFT, TOP + HEIGHT + BOTTOM + legend
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        'font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
        f'<text x="{LEFT:g}" y="20" font-size="13">{escape(title)}</text>',
        f'<text x="{LEFT:g}" y="37" fill="#555">{escape(y_label)}</text>',
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, LEFT + index * (WIDTH + GAP), (bottom, top), with_scale=index == 0)
    for index, name in enumerate(names):
        y = TOP + HEIGHT + BOTTOM + 18 * index
        parts.append(f'<path d="M{LEFT:g} {y:g}h28" {_stroke(index)}/>')
        parts.append(f'<text x="{LEFT + 36:g}" y="{y + 4:g}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, left: float, scale: tuple[float, float], *, with_scale: bool) -> Iterator[str]:
    end = max((x for curve in panel.curves for x in curve.x), default=1.0) or 1.0
    bottom, top = scale

    def at(x: float, y: float) -> str:
        return f"{left + x / end * (WIDTH - GAP):.1f} {TOP + (top - y) / (top - bottom) * HEIGHT:.1f}"

    for step in range(TICKS + 1):
        value = bottom + (top - bottom) * step / TICKS
        y = TOP + (top - value) / (top - bottom) * HEIGHT
        yield f'<path d="M{left:g} {y:.1f}h{WIDTH - GAP:g}" stroke="#ddd"/>'
        if with_scale:
            yield f'<text x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        x = left + step / TICKS * (WIDTH - GAP)
        yield f'<text x="{x:.1f}" y="{TOP + HEIGHT + 14:g}" text-anchor="middle">{end * step / TICKS:.4g}</text>'
    yield f'<text x="{left + (WIDTH - GAP) / 2:g}" y="{TOP + HEIGHT + 29:g}" text-anchor="middle">{panel.axis}</text>'
    for index, curve in enumerate(panel.curves):
        colour = COLOURS[index % len(COLOURS)]
        banded = [i for i, low in enumerate(curve.low) if not math.isnan(low)]
        if banded:
            there = [at(curve.x[i], curve.high[i]) for i in banded]
            back = [at(curve.x[i], curve.low[i]) for i in reversed(banded)]
            yield f'<path d="M{"L".join([*there, *back])}Z" fill="{colour}" fill-opacity="0.15"/>'
        points = [at(x, y) for x, y in zip(curve.x, curve.mean, strict=True) if not math.isnan(y)]
        if points:
            yield f'<path d="M{"L".join(points)}" {_stroke(index)}/>'


def _stroke(index: int) -> str:
    colour, dash = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
    return f'stroke="{colour}" stroke-width="2" fill="none"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = max(0.05 * (high - low), 0.01)
    return max(low - margin, 0.0), min(high + margin, 1.0)
