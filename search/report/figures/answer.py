"""The answer: the winner against the defaults in one sentence, the figures behind it, and what other seeds say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.common.wording import counted
from lcnn.scoring.comparison import holm
from lcnn.scoring.intervals import Estimate
from search.report.evidence import ConfirmingTraining, Evidence
from search.report.figures.figure import (
    Body,
    Cell,
    Figure,
    IntervalRow,
    LegendEntry,
    Table,
    interval_rows,
    mark,
    panel,
    responsive,
)
from search.report.figures.marks import Scale, Shape, covering, dot, line, short, text
from search.report.figures.trial_marks import DICE
from search.report.figures.words import minus, number
from search.report.summary import SIGNIFICANT, Gain, gain_of
from search.study.ledger import DEFAULTS

P_ALONE, P_CORRECTED = "p", "p (Holm)"
P_NOTE = (
    "p: permutation test of the row alone, corrected where several models are compared. p (Holm): corrected for all "
    "rows of this table. Dice was chosen beforehand to judge by, so its own p decides; the other rows describe, and "
    "only their corrected p may be read as a finding."
)
METRIC_NAMES = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "hd95": "HD95",
    "precision": "precision",
    "recall": "recall",
    "lesion_f1": "lesion F1",
    "lesion_count_difference": "lesion count difference",
    "volume_difference": "volume difference",
    "ece": "calibration error",
}
"""Metrics in the order of the table, and their names in it; others follow under their own."""


def headline(evidence: Evidence) -> str:
    """What the run found, in one sentence."""
    winner = evidence.evaluation["winner"]
    dice = Estimate(**evidence.model("winner")["dice"])
    interval = "" if dice.low is None else f" [{dice.low:.3f},\N{NO-BREAK SPACE}{dice.high:.3f}]"
    found = f"test Dice {number(dice.mean)}{interval}"
    if dice.mean is None:
        found = "no test Dice, as no test patient has a lesion"
    if winner == DEFAULTS:
        return f"The defaults won: nothing that was tried did better on validation patients, and they reach {found}."
    if "dice" not in evidence.compared:
        return f"Trial {winner} won with {found}; the defaults gave no model to compare it with."
    theirs = number(evidence.model("defaults")["dice"]["mean"])
    compared = evidence.compared["dice"]
    beside = f"{found}, against {theirs} for the defaults"
    return {
        Gain.BETTER: f"Trial {winner} beats the defaults: {found} against {theirs}.",
        Gain.WORSE: f"No gain: trial {winner} won on validation patients, but is worse on test patients: {beside}.",
        Gain.NONE: f"No significant gain: trial {winner} won with {beside}.",
        Gain.UNKNOWN: f"Trial {winner} won with {beside}; there are too few test patients to tell them apart.",
    }[gain_of(Estimate(**compared.difference), compared.p)]


@dataclass(frozen=True)
class Stat:
    """One number of the answer."""

    value: str
    detail: str
    """Interval, or what it is a share of."""
    name: str


def answer_stats(evidence: Evidence) -> list[Stat]:
    """The numbers behind the sentence: Dice of winner and defaults, gain, false alarms, overtuning."""
    winner = evidence.model("winner")
    stats = [_estimate_stat("test Dice, winner", winner["dice"])]
    if evidence.model("defaults"):
        stats.append(_estimate_stat("test Dice, defaults", evidence.model("defaults")["dice"]))
    if "dice" in evidence.compared:
        stats.append(_estimate_stat("gain, paired by patient", evidence.compared["dice"].difference, sign="+"))
    if free := winner["lesion_free_patients"]:
        alarms = winner["lesion_free_with_false_alarm"]
        stats.append(Stat(f"{alarms} of {free}", "patients without lesion", "false alarms"))
    overtuning = evidence.evaluation.get("overtuning") or {}
    if overtuning.get("gap") is not None:
        beside = f"validation {number(overtuning['validation'])}, test {number(overtuning['test'])}"
        stats.append(Stat(minus(f"{overtuning['gap']:+.3f}"), beside, "overtuning"))
    return stats


def _estimate_stat(name: str, values: Mapping[str, Any], *, sign: str = "") -> Stat:
    estimate = Estimate(**values)
    if estimate.mean is None:
        return Stat("\N{EN DASH}", "no patient with a value", name)
    interval = "" if estimate.low is None else f"[{estimate.low:.3f}, {estimate.high:.3f}], "
    return Stat(minus(f"{estimate.mean:{sign}.3f}"), minus(f"{interval}n = {estimate.patients}"), name)


def gain_figure(evidence: Evidence) -> Figure:
    """Test Dice of winner and defaults, and their paired difference."""
    title = "Test Dice, winner and defaults"
    rows = [
        row
        for role, class_ in (("winner", "main"), ("defaults", "other"))
        if (row := _interval_row(_role_name(role, evidence), evidence.model(role).get("dice"), class_))
    ]
    compared = evidence.compared.get("dice")
    gain = _interval_row("winner minus defaults", compared.difference if compared else None, "main")
    drawings = []
    if rows:
        words = "; ".join(f"{row.name} {row.value:.3f}" for row in rows)
        drawings.append(panel("gain", title, words, lambda width: interval_rows(width, rows, (0, 1), "test Dice")))
    if gain:
        reach = max(0.1, *(abs(v) for v in (gain.value, gain.low, gain.high) if v is not None)) * 1.1
        drawings.append(
            panel(
                "difference",
                "Winner minus defaults, paired by patient",
                f"{gain.value:+.3f}",
                lambda width: interval_rows(width, [gain], (-reach, reach), "difference in Dice", reference=0.0),
            )
        )
    return Figure(
        key="gain",
        title=title,
        reading="Dots are means over test patients with a lesion, bars their 95% bootstrap intervals. A gain is called "
        "one where its bar is clear of the dashed zero and the permutation test of the paired differences has p below "
        f"{SIGNIFICANT}.",
        drawings=tuple(drawings),
        table=metrics_table(evidence),
        note=None if drawings else "No test patient has a lesion, so there is no Dice.",
    )


def _role_name(role: str, evidence: Evidence) -> str:
    return f"winner (trial {evidence.evaluation['winner']})" if role == "winner" else f"defaults (trial {DEFAULTS})"


def _interval_row(name: str, estimate: Mapping[str, Any] | None, class_: str) -> IntervalRow | None:
    if not estimate or estimate["mean"] is None:
        return None
    return IntervalRow(name, estimate["mean"], estimate["low"], estimate["high"], class_)


def metrics_table(evidence: Evidence) -> Table:
    """Every test metric of winner and defaults, their difference, and p-values where there are some.

    Each p is given as it is and, since so many are looked at together, corrected for all rows of the table.
    """
    roles = [role for role in ("winner", "defaults") if evidence.model(role)]
    compared = evidence.compared
    has_p = any(one.p is not None for one in compared.values())
    columns = ["metric", *roles]
    columns += ["winner minus defaults"] if compared else []
    columns += [P_ALONE, P_CORRECTED] if has_p else []
    metrics = _metrics(evidence.model("winner"))
    alone = [compared[metric].p if metric in compared else None for metric in metrics]
    rows: list[tuple[Cell, ...]] = []
    for metric, *p_values in zip(metrics, alone, holm(alone), strict=True):
        one = compared.get(metric)
        row: list[Cell] = [_metric_name(metric, evidence)]
        row += [_estimate(evidence.model(role).get(metric)) for role in roles]
        row += [_estimate(one.difference) if one else None] if compared else []
        row += p_values if has_p else []
        rows.append(tuple(row))
    for name in evidence.model("winner").get("detection", ()):
        shares = [_estimate(evidence.model(role)["detection"][name]) for role in roles]
        rows.append((f"{name}, patients", *shares, *[None] * (len(columns) - 1 - len(roles))))
    notes = [_pairing_note(evidence), P_NOTE if has_p else ""]
    return Table(tuple(columns), tuple(rows), note=" ".join(filter(None, notes)) or None)


def _pairing_note(evidence: Evidence) -> str:
    """Of which metrics the difference is not that of the two means beside it; empty where it is of all."""
    unequal = [
        f"{METRIC_NAMES.get(metric, metric)} (n = {one.difference['patients']})"
        for metric, one in evidence.compared.items()
        if {evidence.model(role)[metric]["patients"] for role in ("winner", "defaults")} != {one.difference["patients"]}
    ]
    if not unequal:
        return ""
    return (
        f"Not the difference of the two means beside it: {', '.join(unequal)}. A mean is over all patients for whom "
        "that model has a value, a difference over those for whom both have one."
    )


def _metrics(model: Mapping[str, Any]) -> list[str]:
    measured = [name for name, value in model.items() if isinstance(value, Mapping) and "patients" in value]
    known = [name for name in METRIC_NAMES if name in measured]
    return known + [name for name in measured if name not in METRIC_NAMES]


def _metric_name(metric: str, evidence: Evidence) -> str:
    name = METRIC_NAMES.get(metric, metric.replace("_", " "))
    units = {
        "hd95": "distance_unit",
        "volume_difference": "volume_unit",
    }
    return f"{name} ({evidence.model('winner')[units[metric]]})" if metric in units else name


def _estimate(values: Mapping[str, Any] | None) -> str | None:
    return minus(Estimate(**values).text()) if values else None


def confirmation_figure(evidence: Evidence) -> Figure | None:
    """Search values beside those of other seeds; None where nothing was confirmed."""
    confirmation = evidence.evaluation.get("confirmation")
    if not confirmation:
        return None
    rows = confirmation["trials"]
    winner = next((row for row in rows if row["trial"] == evidence.evaluation["winner"]), rows[0])
    title = "What the best trials are worth with other seeds"
    description = "; ".join(
        f"trial {row['trial']} {number(row['search_val_dice'])} in the search, "
        f"{number(row['confirmed_val_dice'])} confirmed"
        for row in rows
    )
    return Figure(
        key="confirmation",
        title=title,
        reading="A line a candidate, from its value in the search (ring) to the mean of its confirming trainings "
        "(disc); short strokes are single seeds. A search's best value is the luckiest of many: the line shows by "
        "how much.",
        drawings=responsive(
            "confirmation", title, description, lambda width: _confirmation(width, rows, winner, evidence.confirming)
        ),
        legend=(
            LegendEntry(mark(dot(9, 7, Shape.RING, "main")), "in the search"),
            LegendEntry(mark(dot(9, 7, Shape.DISC, "main")), "mean of the confirmations"),
            LegendEntry(mark(line((9, 2), (9, 12), "seed")), "one seed"),
        ),
        table=Table(
            ("trial", "in the search", "confirmed", "sd over seeds", "expected regression"),
            tuple(
                (
                    row["trial"],
                    row["search_val_dice"],
                    "did not train reliably" if row["confirmed_val_dice"] is None else row["confirmed_val_dice"],
                    row["sd"],
                    row["regression"],
                )
                for row in rows
            ),
        ),
        note="Expected regression of the winner, searched minus confirmed: "
        + minus(f"{winner['regression']:+.3f}, ")
        + f"with {counted(confirmation['seeds'], 'seed')} that the search had not used.",
    )


def _confirmation(
    width: float,
    rows: Sequence[Mapping[str, float | None]],
    winner: Mapping[str, float | None],
    trainings: Sequence[ConfirmingTraining],
) -> Body:
    values = [v for row in rows for v in (row["search_val_dice"], row["confirmed_val_dice"]) if v is not None]
    values += [training.value for training in trainings if training.value is not None]
    pitch, top = 38.0, 14.0
    scale = Scale(*covering(values), 84, width - 20)
    bottom = top + pitch * len(rows)
    parts = [line((scale(v), top), (scale(v), bottom), "rule") for v in scale.ticks()]
    parts += [text(scale(v), bottom + 16, short(v), class_="tick", anchor="middle") for v in scale.ticks()]
    for i, row in enumerate(rows):
        y = top + pitch * (i + 0.5)
        class_ = "main" if row is winner else "other"
        parts.append(text(70, y + 4, f"trial {row['trial']}", class_="label", anchor="end"))
        searched, confirmed = row["search_val_dice"], row["confirmed_val_dice"]
        seeds = [t.value for t in trainings if t.trial == row["trial"] and t.value is not None]
        parts += [line((scale(v), y - 8), (scale(v), y + 8), "seed") for v in seeds]
        if searched is not None and confirmed is not None:
            parts.append(line((scale(searched), y), (scale(confirmed), y), f"interval {class_}"))
            parts.append(dot(scale(confirmed), y, Shape.DISC, class_, radius=5.5))
        if searched is not None:
            parts.append(dot(scale(searched), y, Shape.RING, class_, radius=5.5))
    parts.append(text(scale.stop, bottom + 32, DICE, class_="axis-title", anchor="end"))
    return bottom + 40, "".join(parts)
