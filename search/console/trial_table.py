"""The live view of a search as lines of text: one a running trial, and below them one for the whole search."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from search.console.words import short_params
from search.study.ledger import TrialRecord

BARS = "▁▂▃▄▅▆▇█"
"""A value from 0 to 1 as the height of a bar; the same scale for all trials, so that their curves compare."""
MOST_BARS = 10


@dataclass(frozen=True)
class TrialTable:
    """What runs now, drawn anew whenever something changes.

    Every line is cut at the terminal's width; where there are more trials than lines, the last ones are counted.
    """

    running: Sequence[TrialRecord]
    steps: int
    """Of a trial that nobody stops."""
    unit: str
    """Of its steps: epochs, or folds."""
    status: str
    """How the search as a whole stands."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines(console.height - 1, bars=not options.ascii_only):
            line.truncate(options.max_width, overflow="ellipsis" if not options.ascii_only else "crop")
            yield line

    def lines(self, most: int, *, bars: bool = True) -> list[Text]:
        """The view in at most so many lines, and at least two.

        Args:
            most: lines of the terminal.
            bars: whether it can show the characters of the small curves.
        """
        room = max(1, most - 1)
        shown = self.running if len(self.running) <= room else self.running[: room - 1]
        lines = [self._trial_line(trial, bars=bars) for trial in shown]
        if hidden := len(self.running) - len(shown):
            lines.append(Text(f"  and {hidden} more trials", style="dim"))
        return [*lines, Text(f"  {self.status}", style="bold")]

    def _trial_line(self, trial: TrialRecord, *, bars: bool) -> Text:
        width = len(str(self.steps))
        done = f"{self.unit.removesuffix('s')} {len(trial.curve):>{width}}/{self.steps}"
        now, best = (f"{value:.3f}" if value is not None else "  -  " for value in (_last(trial), trial.best))
        curve = f"  {sparkline(trial.curve):<{MOST_BARS}}" if bars else ""
        return Text.assemble(
            f"  trial {trial.number:>3}  {done}  Dice {now} best {best}{curve}  ",
            (short_params(trial.params), "dim"),
        )


def sparkline(values: Sequence[float], most: int = MOST_BARS) -> str:
    """Values from 0 to 1 as bars; of more than ``most``, evenly chosen ones with the last among them."""
    count = min(len(values), most)
    chosen = [values[(index + 1) * len(values) // count - 1] for index in range(count)]
    return "".join(BARS[min(int(max(value, 0.0) * len(BARS)), len(BARS) - 1)] for value in chosen)


def _last(trial: TrialRecord) -> float | None:
    return trial.curve[-1] if trial.curve else None
