"""A figure of the page: its drawings, how to read it, and the same figures as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from search.report.figures.marks import Plot, Scale, Shape, dot, drawing, line, short, tag, text
from search.report.figures.words import number

WIDE = 760.0
NARROW = 340.0
"""Widths of a drawing on a desk and on a phone, so that its words have the same size on both."""
MOST_ROWS = 200
"""Rows of a table behind a figure; the run folder has them all."""

Cell = str | float | int | None
Body = tuple[float, str]
"""Height of a drawing, and its marks."""


@dataclass(frozen=True)
class Table:
    """Rows of values under named columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str | None = None
    """What must be known to read it rightly."""

    @property
    def shown(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows that the page shows."""
        return self.rows[:MOST_ROWS]


@dataclass(frozen=True)
class LegendEntry:
    """A mark and what it stands for."""

    mark: str
    """SVG."""
    words: str


@dataclass(frozen=True)
class Option:
    """One of several views of a figure between which the reader switches."""

    name: str
    drawings: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """One figure, or the reason why there is none."""

    key: str
    """Names it within the page."""
    title: str
    reading: str
    """How to read it, in one line."""
    drawings: tuple[str, ...] = ()
    """SVG images, side by side where there is room."""
    options: tuple[Option, ...] = ()
    """Views to switch between, instead of drawings."""
    legend: tuple[LegendEntry, ...] = ()
    table: Table | None = None
    note: str | None = None
    """What is left out of it, or why it is empty."""
    warning: str | None = None
    """What the reader should not overlook."""


def responsive(key: str, title: str, description: str, draw: Callable[[float], Body]) -> tuple[str, ...]:
    """The same drawing for a desk and for a phone; the page shows one of them."""
    found = []
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        height, body = draw(width)
        found.append(drawing(f"{key}-{name}", width, height, title, description, body, name))
    return tuple(found)


def panel(key: str, title: str, description: str, draw: Callable[[float], Body], *, width: float = NARROW) -> str:
    """A drawing that is narrow enough for both."""
    height, body = draw(width)
    return drawing(key, width, height, title, description, body)


def mark(content: str) -> str:
    """A mark for a legend, drawn about (9, 7)."""
    return tag("svg", content, viewBox="0 0 18 14", width=18, height=14, aria_hidden="true")


def plot(
    width: float,
    height: float,
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    log: bool = False,
    left: float = 46,
    right: float = 14,
) -> Plot:
    """A plot with room for its axes."""
    return Plot(Scale(*x, left, width - right, log), Scale(*y, height - 42, 30))


@dataclass(frozen=True)
class IntervalRow:
    """A value with its interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    class_: str = "main"


def interval_rows(
    width: float, rows: Sequence[IntervalRow], x: tuple[float, float], x_title: str, *, reference: float | None = None
) -> Body:
    """A line a row: its name, a dot at the value, a bar over the interval, the number.

    Args:
        width: of the drawing.
        rows: from the top.
        x: ends of the axis.
        x_title: what the axis measures.
        reference: a value to mark with a dashed line through all rows.
    """
    beside = width >= WIDE
    pitch = 30.0 if beside else 44.0
    scale = Scale(*x, 190 if beside else 22, width - 66)
    top, bottom = 12.0, 12.0 + pitch * len(rows)
    parts = [line((scale(v), top), (scale(v), bottom), "rule") for v in scale.ticks(5)]
    parts += [text(scale(v), bottom + 16, short(v), class_="tick", anchor="middle") for v in scale.ticks(5)]
    if reference is not None:
        parts.append(line((scale(reference), top - 6), (scale(reference), bottom), "reference"))
    for i, row in enumerate(rows):
        y = top + pitch * (i + (0.5 if beside else 0.68))
        name_x, name_y, anchor = (scale.start - 14, y + 4, "end") if beside else (8.0, y - 13, "start")
        parts.append(text(name_x, name_y, row.name, class_="label halo", anchor=anchor))
        if row.low is not None and row.high is not None:
            parts.append(line((scale(row.low), y), (scale(row.high), y), f"interval {row.class_}"))
        parts.append(dot(scale(row.value), y, Shape.DISC, row.class_, radius=5))
        parts.append(text(width - 56, y + 4, number(row.value), class_="value"))
    parts.append(text(scale.stop, bottom + 32, x_title, class_="axis-title", anchor="end"))
    return bottom + 40, "".join(parts)
