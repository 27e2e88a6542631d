"""Figures of the settings: which mattered, and where the good values lie."""

from collections.abc import Callable, Sequence
from functools import partial

from data_prep.common.wording import counted
from search.report.evidence import Evidence, Parameter
from search.report.figures.figure import (
    WIDE,
    Body,
    Figure,
    IntervalRow,
    LegendEntry,
    Table,
    interval_rows,
    mark,
    panel,
    plot,
    responsive,
)
from search.report.figures.marks import Point, Scale, Shape, dot, line, path, short, text
from search.report.figures.trial_marks import (
    density,
    dice_range,
    drawn,
    outcome_class,
    outcome_legend,
    sample_note,
    shape_of,
    trial_tip,
)
from search.report.figures.words import clip, parameter_name
from search.report.importance import CHANCE, FEWEST_TRIALS, MOST_TRIALS, RESAMPLES, parameter_importance
from search.spec.space import Value
from search.study.ledger import TrialRecord


def importance_figure(evidence: Evidence) -> Figure:
    """Importance of every parameter with its uncertainty."""
    title = "Which settings mattered"
    found = parameter_importance(evidence.trials, evidence.parameters)
    usable = sum(trial.is_usable for trial in evidence.trials)
    rows = [
        IntervalRow(
            parameter_name(i.name) if i.name != CHANCE else "pure chance",
            i.median,
            i.low,
            i.high,
            "chance" if i.name == CHANCE else "main",
        )
        for i in found
    ]
    chance = next((i.high for i in found if i.name == CHANCE), None)
    top = max((row.high or 0.0 for row in rows), default=1.0)
    description = "; ".join(f"{row.name} {row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in rows)
    return Figure(
        key="importance",
        title=title,
        reading="Share of the spread of validation Dice that a setting explains (functional ANOVA). Bars: 5th to 95th "
        "percentile over bootstrap samples of the trials. What does not rise above the dashed line could be chance.",
        drawings=responsive(
            "importance",
            title,
            description,
            lambda width: interval_rows(width, rows, (0.0, top * 1.05), "share of the spread", reference=chance),
        )
        if rows
        else (),
        table=Table(
            ("setting", "median", "5th percentile", "95th percentile"),
            tuple((row.name, row.value, row.low, row.high) for row in rows),
        )
        if rows
        else None,
        note=_importance_note(evidence, usable, bool(rows)),
    )


def _importance_note(evidence: Evidence, usable: int, has_figure: bool) -> str:
    if usable < FEWEST_TRIALS:
        return f"Too few trials: {usable} with a value, importance needs {FEWEST_TRIALS}."
    if not has_figure:
        return "Nothing to compare: fewer than two settings that all trials have, or the same value in all trials."
    conditional = [parameter_name(p.name) for p in evidence.parameters if p.conditional]
    left_out = f" Settings that only some trials have are left out: {', '.join(conditional)}." if conditional else ""
    return (
        f"{RESAMPLES} samples of {min(usable, MOST_TRIALS)} from {usable} trials, completed and stopped alike, each by "
        f"the best value it reached.{left_out}"
    )


def parallel_figure(evidence: Evidence) -> Figure:
    """Parallel coordinates."""
    title = "Settings and result of every trial"
    shown = drawn(evidence)
    values = [trial.best for trial in shown if trial.best is not None]
    return Figure(
        key="parallel",
        title=title,
        reading="A line a trial through its settings to its best validation Dice at the end; the darker, the better. "
        "A setting that a trial does not have is passed at the foot of its axis.",
        drawings=responsive(
            "parallel",
            title,
            f"{counted(len(shown), 'trial')} over {counted(len(evidence.parameters), 'setting')}",
            lambda width: (_parallel_across if width >= WIDE else _parallel_down)(width, evidence, shown),
        )
        if values and evidence.parameters
        else (),
        legend=(
            LegendEntry(mark(line((1, 7), (17, 7), "strand winner")), "winner"),
            LegendEntry(mark(line((1, 7), (17, 7), "strand outcome-completed")), "completed"),
            LegendEntry(mark(line((1, 7), (17, 7), "strand outcome-pruned")), "stopped"),
        )
        if values
        else (),
        table=_trial_table(evidence),
        note=sample_note(evidence, shown) if values else "No trial gave a value.",
    )


def _trial_table(evidence: Evidence) -> Table:
    return Table(
        ("trial", "outcome", "best", "epochs", *(p.name for p in evidence.parameters)),
        tuple(
            (
                trial.number,
                str(trial.outcome or "unfinished"),
                trial.best,
                len(trial.curve),
                *(_cell(trial.params.get(p.name)) for p in evidence.parameters),
            )
            for trial in evidence.trials
        ),
    )


def _cell(value: Value) -> str | float | int | None:
    return str(value) if isinstance(value, bool) else value


def _parallel_across(width: float, evidence: Evidence, shown: Sequence[TrialRecord]) -> Body:
    """Axes upright, side by side."""
    height, top, bottom = 380.0, 56.0, 326.0
    places = _spread(len(evidence.parameters) + 1, 44, width - 36)
    scale = _shares(bottom, top)
    strands = _strands(evidence, shown, lambda axis, share: (places[axis], scale(share)))
    parts = [line((at, top - 8), (at, bottom + 8), "axis") for at in places]
    names = [parameter_name(p.name) for p in evidence.parameters]
    for i, (at, name) in enumerate(zip(places, [*names, "Dice"], strict=True)):
        # Two heights, so that neighbouring names do not run into each other.
        parts.append(text(at, top - (34 if i % 2 else 18), name, class_="label", anchor="middle"))
    for at, ends in zip(places, _ends(evidence, shown), strict=True):
        parts += [text(at + 5, scale(share) + 3.5, words, class_="tick halo") for share, words in ends]
    if any(p.conditional for p in evidence.parameters):
        parts.append(text(places[0] - 36, bottom + 34, "below the axes: not a setting of this trial", class_="tick"))
    return height, strands + "".join(parts)


def _parallel_down(width: float, evidence: Evidence, shown: Sequence[TrialRecord]) -> Body:
    """Axes lying, one below the other: on a phone there is more room that way."""
    pitch, top = 54.0, 30.0
    places = [top + pitch * i for i in range(len(evidence.parameters) + 1)]
    scale = _shares(26, width - 16)
    strands = _strands(evidence, shown, lambda axis, share: (scale(share), places[axis]))
    parts = [line((18, at), (width - 10, at), "axis") for at in places]
    names = [parameter_name(p.name) for p in evidence.parameters]
    for at, name in zip(places, [*names, "Dice"], strict=True):
        parts.append(text(18, at - 9, name, class_="label halo"))
    for at, ends in zip(places, _ends(evidence, shown), strict=True):
        parts += [text(scale(share), at + 14, words, class_="tick halo", anchor="middle") for share, words in ends]
    return places[-1] + 30, strands + "".join(parts)


def _strands(evidence: Evidence, shown: Sequence[TrialRecord], at: Callable[[int, float], Point]) -> str:
    low, high = _result_range(shown)
    winner = evidence.winner.number if evidence.winner else None
    parts = []
    for trial in sorted(shown, key=lambda trial: (trial.number == winner, trial.best or 0.0)):
        if trial.best is None:
            continue
        shares = [_share(p, trial.params.get(p.name)) for p in evidence.parameters]
        result = (trial.best - low) / (high - low)
        points = [at(axis, share) for axis, share in enumerate([*shares, result])]
        class_ = "winner" if trial.number == winner else outcome_class(trial)
        depth = f"depth-{min(4, int(result * 5))}"
        parts.append(path(points, f"strand {class_} {depth} {density(shown)}", tip=trial_tip(trial, evidence.step)))
    return "".join(parts)


ABSENT = -0.06
"""Where a strand passes the axis of a setting that its trial does not have."""


def _share(parameter: Parameter, value: Value) -> float:
    return ABSENT if value is None and None not in parameter.choices else parameter.share(value)


def _result_range(shown: Sequence[TrialRecord]) -> tuple[float, float]:
    values = [trial.best for trial in shown if trial.best is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.05, high + 0.05)


def _ends(evidence: Evidence, shown: Sequence[TrialRecord]) -> list[list[tuple[float, str]]]:
    """Labels of every axis: its choices, or its ends."""
    found = []
    for p in evidence.parameters:
        if p.choices:
            found.append([(p.share(choice), clip(str(choice), 12)) for choice in p.choices])
        else:
            found.append([(0.0, short(p.low)), (1.0, short(p.high))])
    low, high = _result_range(shown)
    return [*found, [(0.0, f"{low:.2f}"), (1.0, f"{high:.2f}")]]


SLICE_WIDTH = 270.0
"""Three beside each other on a desk."""


def slices_figure(evidence: Evidence) -> Figure:
    """Validation Dice against each setting."""
    title = "Validation Dice by setting"
    shown = drawn(evidence)
    values = [trial.best for trial in shown if trial.best is not None]
    range_ = dice_range(values)
    drawings = tuple(
        panel(
            f"slice-{i}",
            f"Validation Dice by {p.name}",
            f"{counted(len(shown), 'trial')}",
            partial(_slice, parameter=p, shown=shown, y=range_, evidence=evidence),
            width=SLICE_WIDTH,
        )
        for i, p in enumerate(evidence.parameters)
    )
    return Figure(
        key="slices",
        title=title,
        reading="One panel a setting, one mark a trial; upward its best validation Dice. A slope or a hump in "
        "the completed trials speaks for the setting; stopped trials lie lower also because they trained less.",
        drawings=drawings if values else (),
        legend=(*outcome_legend(shown), LegendEntry(mark(dot(9, 7, Shape.RING, "halo-winner", radius=6)), "winner"))
        if values
        else (),
        table=_trial_table(evidence),
        note=sample_note(evidence, shown) if values else "No trial gave a value.",
    )


def _slice(
    width: float, parameter: Parameter, shown: Sequence[TrialRecord], y: tuple[float, float], evidence: Evidence
) -> Body:
    height = 200.0
    frame = plot(width, height, (0.0, 1.0), y)
    scale = frame.x
    parts = [frame.grid("", parameter_name(parameter.name), x_ticks=[])]
    if parameter.choices:
        labels = [(parameter.share(choice), clip(str(choice), 16)) for choice in parameter.choices]
    else:
        values = Scale(parameter.low, parameter.high, 0.0, 1.0, parameter.log)
        labels = [(values(tick), short(tick)) for tick in values.ticks(4)]
    parts += [text(scale(share), frame.y.start + 16, words, class_="tick", anchor="middle") for share, words in labels]
    for trial in shown:
        if parameter.name not in trial.params or trial.best is None:
            continue
        share = parameter.share(trial.params[parameter.name])
        if parameter.choices:
            # Trials with the same choice stand beside each other, in order of their numbers.
            share += (trial.number % 7 - 3) / 7 * 0.5 / len(parameter.choices)
        at = frame.at(share, trial.best)
        parts.append(dot(*at, shape_of(trial), outcome_class(trial), tip=trial_tip(trial, evidence.step)))
        if evidence.winner and trial.number == evidence.winner.number:
            parts.append(dot(*at, Shape.RING, "halo-winner", radius=8))
    return height, "".join(parts)


def _spread(count: int, first: float, last: float) -> list[float]:
    return [first + (last - first) * i / max(1, count - 1) for i in range(count)]


def _shares(start: float, stop: float) -> Scale:
    return Scale(0.0, 1.0, start, stop)
