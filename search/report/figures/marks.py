"""Marks on paper: scales, axes, lines, dots and bars as SVG text. Colours and fonts come from the page's style sheet.

Positions are in units of the drawing, of which one is about a pixel; x runs to the right and y downward.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from itertools import pairwise

from lcnn.outcome import Outcome
from search.report.figures.words import minus

Point = tuple[float, float]


class Shape(StrEnum):
    """Dots that differ without their colour."""

    DISC = "disc"
    RING = "ring"
    TRIANGLE = "triangle"
    SQUARE = "square"
    CROSS = "cross"


OUTCOME_SHAPES = {
    Outcome.COMPLETED: Shape.DISC,
    Outcome.PRUNED: Shape.RING,
    Outcome.DIVERGED: Shape.TRIANGLE,
    Outcome.INFEASIBLE: Shape.SQUARE,
    Outcome.CRASHED: Shape.CROSS,
}


def tag(name: str, *content: str, **attributes: str | float | None) -> str:
    """An element. Attribute values are escaped, content is taken as it is; ``_`` in a name stands for ``-``.

    A trailing ``_`` is dropped, so that ``class_`` can be given; None leaves an attribute out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{''.join(content)}</{name}>" if content else f"<{name}{given}/>"


def _plain(value: str | float) -> str:
    """A coordinate to a hundredth: what cannot be seen need not be sent."""
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def text(x: float, y: float, words: str, *, class_: str = "label", anchor: str = "start") -> str:
    """Words whose baseline begins, ends or is centred at a point."""
    return tag("text", escape(words), x=x, y=y, class_=class_, text_anchor=anchor)


def line(start: Point, end: Point, class_: str) -> str:
    """A straight line."""
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def path(points: Sequence[Point], class_: str, *, tip: str | None = None) -> str:
    """A line through points; ``tip`` is shown under the pointer."""
    course = "M" + "L".join(f"{_plain(x)} {_plain(y)}" for x, y in points)
    return tag("path", *_tip(tip), d=course, class_=class_)


def steps(points: Sequence[Point], class_: str) -> str:
    """A line that keeps its height until the next point."""
    corners = [points[0]] if points else []
    for (_, before), (x, y) in pairwise(points):
        corners += [(x, before), (x, y)]
    return path(corners, class_) if corners else ""


def bar(x: float, y: float, width: float, height: float, class_: str, *, tip: str | None = None) -> str:
    """A filled rectangle."""
    return tag("rect", *_tip(tip), x=x, y=y, width=max(width, 0.0), height=max(height, 0.0), class_=class_)


def dot(x: float, y: float, shape: Shape, class_: str, *, radius: float = 4.0, tip: str | None = None) -> str:
    """A mark at a point."""
    class_ = f"dot {shape} {class_}"
    match shape:
        case Shape.DISC | Shape.RING:
            return tag("circle", *_tip(tip), cx=x, cy=y, r=radius, class_=class_)
        case Shape.SQUARE:
            return tag(
                "rect", *_tip(tip), x=x - radius, y=y - radius, width=2 * radius, height=2 * radius, class_=class_
            )
        case Shape.TRIANGLE:
            corners = [(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)]
            return tag(
                "polygon", *_tip(tip), points=" ".join(f"{_plain(a)},{_plain(b)}" for a, b in corners), class_=class_
            )
        case Shape.CROSS:
            arms = "".join(
                f"M{_plain(x - side * radius)} {_plain(y - radius)}L{_plain(x + side * radius)} {_plain(y + radius)}"
                for side in (1, -1)
            )
            return tag("path", *_tip(tip), d=arms, class_=class_)


def _tip(words: str | None) -> list[str]:
    return [tag("title", escape(words))] if words else []


# --- scales and axes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """From values to positions."""

    low: float
    high: float
    start: float
    """Position of the lowest value."""
    stop: float
    """Position of the highest value."""
    log: bool = False

    def __call__(self, value: float) -> float:
        """Position of a value."""
        if self.low == self.high:
            return (self.start + self.stop) / 2
        share = (
            math.log(value / self.low) / math.log(self.high / self.low)
            if self.log
            else (value - self.low) / (self.high - self.low)
        )
        return self.start + share * (self.stop - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values between the ends: about so many, or powers of ten with their halves on a logarithmic scale."""
        return _log_ticks(self.low, self.high) if self.log else round_ticks(self.low, self.high, about)


def round_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from ``low`` to ``high``."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**d for d in decades for f in factors if low * 0.999 <= f * 10.0**d <= high * 1.001]
        if len(found) >= 3:
            return found
    return found or [low, high]


def covering(values: Iterable[float], *, least: tuple[float, float] | None = None) -> tuple[float, float]:
    """Lowest and highest of the values with a little air; ``least`` is covered too."""
    all_values = [*values, *(least or ())]
    if not all_values:
        return 0.0, 1.0
    low, high = min(all_values), max(all_values)
    air = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    inside = least and least[0] <= low and high <= least[1]
    return (low, high) if inside else (low - air, high + air)


def short(value: float) -> str:
    """A number for an axis: as few digits as tell it."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.001:
        mantissa, exponent = f"{value:.0e}".split("e")
        return minus(f"{mantissa}e{int(exponent)}")
    return minus(f"{value:.6g}")


@dataclass(frozen=True)
class Plot:
    """The rectangle of a drawing that the data is drawn in, with a scale along each side."""

    x: Scale
    y: Scale

    def at(self, x: float, y: float) -> Point:
        """Position of a pair of values."""
        return self.x(x), self.y(y)

    def grid(self, x_title: str, y_title: str, *, x_ticks: Sequence[float] | None = None, about: int = 5) -> str:
        """Rules, tick labels, the baseline and both titles."""
        left, right, bottom, top = self.x.start, self.x.stop, self.y.start, self.y.stop
        parts = [line((left, self.y(v)), (right, self.y(v)), "rule") for v in self.y.ticks(4)]
        parts += [text(left - 6, self.y(v) + 3.5, short(v), class_="tick", anchor="end") for v in self.y.ticks(4)]
        for value in self.x.ticks(about) if x_ticks is None else x_ticks:
            parts.append(line((self.x(value), bottom), (self.x(value), bottom + 4), "axis"))
            parts.append(text(self.x(value), bottom + 16, short(value), class_="tick", anchor="middle"))
        parts.append(line((left, bottom), (right, bottom), "axis"))
        parts.append(text(right, bottom + 32, x_title, class_="axis-title", anchor="end"))
        parts.append(text(left - 30, top - 12, y_title, class_="axis-title"))
        return "".join(parts)


def drawing(key: str, width: float, height: float, title: str, description: str, body: str, class_: str = "") -> str:
    """An SVG image that a screen reader can name."""
    return tag(
        "svg",
        tag("title", escape(title), id=f"{key}-title"),
        tag("desc", escape(description), id=f"{key}-description"),
        body,
        viewBox=f"0 0 {_plain(width)} {_plain(height)}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{key}-title {key}-description",
        class_=class_ or None,
    )
