"""Searches compared: best validation Dice so far, over trials, epochs and seconds of training.

python -m experiments.compare results/tpe-0 results/tpe-1 results/random-0 results/random-1
python -m experiments.compare results/lcnn-cpu results/lcnn-cpu-sweep         ours against W&B's, same training code

Runs that differ only in their seeds (sampler.seed, train.seed) are repetitions of one search and become one curve: the
mean, and from three runs on its 95% interval (Student's t over the runs). A trial counts from its end on, with all
that it took; seconds are summed over trials, so that running more of them at once looks no faster. Crashed trials are
left out, diverged ones and those that did not fit into memory cost their effort. Writes compare.csv and compare.svg.

Runs on other cohorts, splits, profiles or epochs are refused; --force compares them nevertheless, and says so.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
from scipy import stats

from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError
from data_prep.common.figures import COLOURS, DASHES, new_figure, to_svg
from data_prep.common.files import write_text_atomically
from experiments.search_record import AXES, SearchRecord, differences, read_search, repeated_seeds
from lcnn.scoring.comparison import holm

FEWEST_RUNS = 3
"""With fewer repetitions there is no interval, and no verdict."""
POINTS = 60
CAUTION = (
    "The best of many noisy validation values is too high, more so the more trials there are; "
    "which model is better, only the test of a run says."
)


@dataclass(frozen=True)
class Mean:
    """A mean over runs with its 95% interval; NaN where it is not defined."""

    mean: float
    low: float
    high: float
    runs: int

    def text(self) -> str:
        """For people."""
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.3f}" if math.isnan(self.low) else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Curve:
    """A method's values over effort; NaN where there are none."""

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


@dataclass(frozen=True)
class Method:
    """A search, repeated with several seeds or run once."""

    name: str
    runs: tuple[SearchRecord, ...]

    def values(self, axis: str, effort: float) -> list[float]:
        """Best Dice so far of every run."""
        return [run.best_after(axis, effort) for run in self.runs]

    def at(self, axis: str, effort: float) -> Mean:
        """Mean over the runs; undefined as soon as one of them has no value, for the others are not a fair sample."""
        return mean_over_runs(self.values(axis, effort))


def mean_over_runs(values: Sequence[float]) -> Mean:
    """Mean and Student's t interval (1908), cut off at 0 and 1, which Dice does not leave."""
    mean = fmean(values)
    if len(values) < FEWEST_RUNS or math.isnan(mean):
        return Mean(mean, math.nan, math.nan, len(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Mean(mean, max(mean - half, 0.0), min(mean + half, 1.0), len(values))


def methods_of(records: Sequence[SearchRecord]) -> list[Method]:
    """The runs grouped by what they repeat, in the order in which each comes first."""
    groups: dict[str, list[SearchRecord]] = {}
    for record in records:
        groups.setdefault(record.method, []).append(record)
    names = [_name([run.name for run in runs]) for runs in groups.values()]
    return [
        # Where two groups would have one name, the first run's tells them apart.
        Method(name if names.count(name) == 1 else runs[0].name, tuple(runs))
        for name, runs in zip(names, groups.values(), strict=True)
    ]


def _name(names: Sequence[str]) -> str:
    """What the runs' names have in common before a number or seed at their end, else the first of them."""
    if len(names) == 1:
        return names[0]
    stems = {re.sub(r"[-_.]*(seed|s)?[-_.]*\d+$", "", name) for name in names}
    return stems.pop() or names[0] if len(stems) == 1 else names[0]


def common_effort(methods: Sequence[Method], axis: str) -> float:
    """Effort up to which all runs can be compared."""
    return min(run.effort(axis)[-1] for method in methods for run in method.runs)


def curve(method: Method, axis: str) -> Curve:
    """A method's curve as far as all of its runs went."""
    end = common_effort([method], axis)
    x = [float(n) for n in range(1, int(end) + 1)] if axis == "trials" else np.linspace(end / POINTS, end, POINTS)
    means = [method.at(axis, float(effort)) for effort in x]
    name = f"{method.name} ({len(method.runs)} run{'s' if len(method.runs) > 1 else ''})"
    return Curve(name, list(x), [m.mean for m in means], [m.low for m in means], [m.high for m in means])


def curve_rows(panels: Sequence[Panel]) -> pd.DataFrame:
    """All curves, a row a point."""
    return pd.DataFrame(
        [
            {"axis": panel.axis, "search": c.name, "effort": x, "val_dice": mean, "low": low, "high": high}
            for panel in panels
            for c in panel.curves
            for x, mean, low, high in zip(c.x, c.mean, c.low, c.high, strict=True)
        ]
    )


def chart(title: str, panels: Sequence[Panel], y_label: str) -> str:
    """The curves with their bands as the text of an SVG file."""
    figure = new_figure(title, panels=len(panels), height_in=4.0)
    axes = figure.subplots(1, len(panels), sharey=True)
    for panel, axis in zip(panels, axes, strict=True):
        for number, curve in enumerate(panel.curves):
            colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
            axis.plot(curve.x, curve.mean, color=colour, linestyle=dash, label=curve.name)
            axis.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axis.set(xlabel=panel.axis, xlim=(0, None))
        axis.grid(color="#ddd")
    axes[0].set_ylabel(y_label)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left")
    return to_svg(figure)


def table(methods: Sequence[Method]) -> Iterator[str]:
    """Best Dice at the effort that all runs reached, and what each search took in all."""
    ends = {axis: common_effort(methods, axis) for axis in AXES}
    width = max(len(method.name) for method in methods)
    heads = [f"after {ends[axis]:.4g} {axis}" for axis in AXES]
    yield "  ".join([" " * width, "runs", *(f"{head:<24}" for head in heads), "in all: trials, epochs, seconds"])
    for method in methods:
        cells = [f"{method.at(axis, ends[axis]).text():<24}" for axis in AXES]
        spent = ", ".join(f"{fmean(run.effort(axis)[-1] for run in method.runs):.4g}" for axis in AXES)
        yield "  ".join([f"{method.name:<{width}}", f"{len(method.runs):>4}", *cells, spent])


def verdict(methods: Sequence[Method], axis: str = "epochs") -> Iterator[str]:
    """What may be said about the first search and each other one, at equal effort.

    Welch's t-test (1947) over the runs; several comparisons are corrected after Holm (1979).
    """
    effort = common_effort(methods, axis)
    first, others = methods[0], methods[1:]
    tested = [(first.values(axis, effort), other.values(axis, effort)) for other in others]
    enough = [min(len(a), len(b)) >= FEWEST_RUNS and not any(map(math.isnan, [*a, *b])) for a, b in tested]
    corrected = iter(holm([welch(a, b)[0] for (a, b), is_enough in zip(tested, enough, strict=True) if is_enough]))
    for other, (a, b), is_enough in zip(others, tested, enough, strict=True):
        gap = fmean(a) - fmean(b)
        what = f"{first.name} against {other.name} after {effort:.4g} {axis} each: "
        if math.isnan(gap):
            yield what + "not every run had a value by then."
        elif not is_enough:
            yield (
                f"{what}{gap:+.3f}, from {len(a)} and {len(b)} runs. That does not show which search is better; "
                f"{FEWEST_RUNS} or more runs of each would, with other seeds (sampler.seed, train.seed)."
            )
        else:
            p, (_, low, high) = next(corrected), welch(a, b)
            shown = f"{gap:+.3f} [{low:+.3f}, {high:+.3f}], p = {p:.2g}" + (" after Holm" if len(others) > 1 else "")
            better = first.name if gap > 0 else other.name
            yield f"{what}{shown}; " + (f"{better} is better here." if p < 0.05 else "no difference is shown.")


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """P value and 95% interval of the difference of two means; without any spread the means decide."""
    if np.ptp(a) == np.ptp(b) == 0:
        gap = a[0] - b[0]
        return float(gap == 0), gap, gap
    result = stats.ttest_ind(a, b, equal_var=False)
    interval = result.confidence_interval(0.95)
    return float(result.pvalue), float(interval.low), float(interval.high)


def title_of(records: Sequence[SearchRecord], found: Sequence[str]) -> str:
    """What the picture is of."""
    kinds = {record.synthetic for record in records}
    cohort = "SYNTHETIC cohort" if True in kinds else "cohort not known" if None in kinds else "real cohort"
    first = records[0].conditions
    forced = f"; NOT COMPARABLE: other {', '.join(text.split(' ')[0] for text in found)}" if found else ""
    return f"Searches compared: {cohort}, profile {first['profile'] or 'none'}, {first['epochs']} epochs{forced}"


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, of searches or W&B sweeps")
    options.add_argument("--force", action="store_true", help="compare what is not comparable, and say so")
    options.add_argument("--out", type=Path, default=Path("results/comparison"), metavar="DIR")
    _run(options.parse_args(arguments))
    return 0


def _run(options: argparse.Namespace) -> None:
    if len({path.resolve() for path in options.runs}) < len(options.runs):
        raise InputError("RUN: a run is named twice, which would make it look sure of itself; name each once")
    records = [read_search(path) for path in options.runs]
    if again := repeated_seeds(records):
        raise InputError(f"{again[1]}: has the settings and seeds of {again[0]}, so it repeats nothing; leave one out")
    found = differences(records)
    if found and not options.force:
        raise InputError(f"the runs are not comparable: {'; '.join(found)}; leave some out, or see what --force gives")
    methods = methods_of(records)
    panels = [Panel(axis, [curve(method, axis) for method in methods]) for axis in AXES]
    title = title_of(records, found)
    write_text_atomically(options.out / "compare.csv", curve_rows(panels).to_csv(index=False))
    picture = chart(title, panels, "best validation Dice so far\n(band: 95% interval, from three runs on)")
    write_text_atomically(options.out / "compare.svg", picture)
    for line in (title, *table(methods), *verdict(methods), CAUTION, f"Curves: {options.out}/compare.csv, compare.svg"):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
