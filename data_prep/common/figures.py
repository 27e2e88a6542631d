"""Figures by matplotlib, as SVG with text that stays text; equal data give equal bytes."""

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008): they differ with any colour vision."""
DASHES = ("-", "--", ":", "-.")


def new_figure(title: str, *, panels: int, height_in: float = 3.4) -> "Figure":
    """An empty figure, as wide as so many panels side by side need."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes as long to import as most commands run

    figure = Figure(figsize=(4.0 * panels, height_in), layout="constrained")
    figure.suptitle(title, fontsize=10)
    return figure


def to_svg(figure: "Figure") -> str:
    """The figure as the text of an SVG file."""
    from matplotlib import rc_context  # noqa: PLC0415

    text = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "figure"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
