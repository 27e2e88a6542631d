"""Histograms side by side as one SVG, without a plotting library."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, GAP = 340, 220, 24
LEFT, BOTTOM, TOP = 46, 40, 34
COLOURS = ("#0072b2", "#e69f00")
"""From the palette of Okabe and Ito (2008)."""


@dataclass(frozen=True)
class Series:
    """Bars of one colour."""

    label: str
    heights: NDArray[np.float64]
    """One a bin."""


@dataclass(frozen=True)
class Histogram:
    """One panel."""

    title: str
    x_label: str
    y_label: str
    edges: NDArray[np.float64]
    """Bounds of the bins, one more than there are."""
    series: Sequence[Series]
    is_log: bool = False
    """Whether bins are spaced by their logarithm."""


def in_digits(value: float) -> str:
    """A number with three digits at least, and without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def to_svg(panels: Sequence[Histogram], title: str) -> str:
    """The panels from left to right."""
    width = len(panels) * (WIDTH + GAP) + GAP
    height = HEIGHT + 2 * GAP + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{GAP}" y="20" font-size="13">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        left = GAP + number * (WIDTH + GAP)
        parts.append(f'<g transform="translate({left} {GAP + 8})">{_panel(panel)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Histogram) -> str:
    inner_width, inner_height = WIDTH - LEFT, HEIGHT - TOP - BOTTOM
    places = np.log(panel.edges) if panel.is_log else panel.edges
    x = LEFT + (places - places[0]) / (places[-1] - places[0]) * inner_width
    top = max((float(series.heights.max(initial=0)) for series in panel.series), default=0) or 1.0
    floor = TOP + inner_height
    parts = [f'<text x="0" y="14" font-weight="bold">{escape(panel.title)}</text>']
    for number, series in enumerate(panel.series):
        colour = COLOURS[number % len(COLOURS)]
        for left, right, height in zip(x, x[1:], series.heights / top * inner_height, strict=False):
            if height > 0:
                parts.append(
                    f'<rect x="{left:.1f}" y="{floor - height:.1f}" width="{max(right - left - 0.5, 0.5):.1f}" '
                    f'height="{height:.1f}" fill="{colour}" fill-opacity="0.7"/>'
                )
        if len(panel.series) > 1:
            place = f'x="{WIDTH}" y="{14 + 13 * number}" text-anchor="end"'
            parts.append(f'<text {place} fill="{colour}">{escape(series.label)}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH}" fill="none" stroke="#888"/>')
    for index in sorted({0, len(x) // 4, len(x) // 2, len(x) * 3 // 4, len(x) - 1}):
        parts.append(
            f'<text x="{x[index]:.1f}" y="{floor + 14}" text-anchor="middle">{in_digits(panel.edges[index])}</text>'
        )
    parts.append(f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{in_digits(top)}</text>')
    parts.append(f'<text x="{LEFT - 4}" y="{floor}" text-anchor="end">0</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{floor + 30}" text-anchor="middle">{escape(panel.x_label)}</text>')
    turn = f'transform="translate(12 {TOP + inner_height / 2}) rotate(-90)"'
    parts.append(f'<text {turn} text-anchor="middle">{escape(panel.y_label)}</text>')
    return "".join(parts)
