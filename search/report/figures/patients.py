"""Figures of the test: volumes, calibration, strata, and what a better Dice costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.common.wording import counted
from search.report.analysis import VolumeAgreement, volume_agreement
from search.report.evidence import Evidence, Patient
from search.report.figures.figure import (
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
from search.report.figures.marks import Shape, bar, covering, dot, line, path, text
from search.report.figures.words import amount, number


def volume_figure(evidence: Evidence) -> Figure | None:
    """Bland-Altman plot; None where no patient has volumes."""
    agreement = volume_agreement(evidence.patients)
    if agreement is None:
        return None
    unit = evidence.patients[0].volume_unit
    title = "Predicted against true volume"
    limits = (
        ""
        if agreement.low is None or agreement.high is None
        else f", limits of agreement {amount(agreement.low)} to {amount(agreement.high)} {unit}"
    )
    return Figure(
        key="volumes",
        title=title,
        reading="A mark a patient (Bland-Altman): above the zero line the prediction is too large, below it too small. "
        "Dashed: the mean difference and, thinner, its 95% limits.",
        drawings=responsive(
            "volumes",
            title,
            f"mean difference {amount(agreement.bias)} {unit}{limits}",
            lambda width: _volumes(width, agreement, evidence.patients, unit),
        ),
        legend=(
            LegendEntry(mark(dot(9, 7, Shape.DISC, "main")), "lesion"),
            LegendEntry(mark(dot(9, 7, Shape.SQUARE, "other")), "no lesion"),
        ),
        table=Table(
            ("patient", f"true volume ({unit})", f"predicted ({unit})", f"difference ({unit})"),
            tuple(
                (patient.name, *(patient.figures.get(key) for key in ("true_volume", "predicted_volume")), difference)
                for patient, difference in zip(_with_volumes(evidence.patients), agreement.differences, strict=True)
            ),
        ),
        note=f"Mean difference {amount(agreement.bias, '+')} {unit}{limits}; n = {len(agreement.differences)}.",
    )


def _with_volumes(patients: Sequence[Patient]) -> list[Patient]:
    return [patient for patient in patients if {"predicted_volume", "true_volume"} <= patient.figures.keys()]


def _volumes(width: float, agreement: VolumeAgreement, patients: Sequence[Patient], unit: str) -> Body:
    height = 300.0
    limits = [value for value in (agreement.low, agreement.high) if value is not None]
    reach = max(abs(v) for v in (*agreement.differences, agreement.bias, *limits)) * 1.1 or 1.0
    frame = plot(width, height, (0.0, covering(agreement.means, least=(0.0, 1.0))[1]), (-reach, reach), left=54)
    parts = [
        frame.grid(f"mean of both volumes ({unit})", f"predicted minus true ({unit})"),
        line(frame.at(0, 0), frame.at(frame.x.high, 0), "axis"),
        line(frame.at(0, agreement.bias), frame.at(frame.x.high, agreement.bias), "reference"),
        *(line(frame.at(0, v), frame.at(frame.x.high, v), "reference thin") for v in limits),
    ]
    for patient, mean, difference in zip(_with_volumes(patients), agreement.means, agreement.differences, strict=True):
        shape, class_ = (Shape.DISC, "main") if patient.has_lesion else (Shape.SQUARE, "other")
        tip = f"{patient.name}: mean {amount(mean)}, difference {amount(difference, '+')} {unit}"
        parts.append(dot(*frame.at(mean, difference), shape, class_, radius=4.5, tip=tip))
    return height, "".join(parts)


def calibration_figure(evidence: Evidence) -> Figure | None:
    """Reliability diagram; None where calibration was not measured."""
    calibration = evidence.model("winner").get("calibration")
    bins = [b for b in (calibration or {}).get("bins", ()) if b["voxels"]]
    if calibration is None or not bins:
        return None
    title = "Calibration"
    ece = number(calibration["ece"])
    return Figure(
        key="calibration",
        title=title,
        reading="Of the voxels around lesions that were given a probability, how many are lesion. On the "
        "diagonal the probability can be taken at its word; below it the model is too sure of lesion. The bars are the "
        "numbers of voxels, on a logarithmic scale.",
        drawings=(
            panel("calibration", title, f"expected calibration error {ece}", lambda side: _calibration(side, bins)),
        ),
        table=Table(
            ("probability from", "to", "mean probability", "share that is lesion", "voxels"),
            tuple((b["low"], b["high"], b["mean_probability"], b["observed"], b["voxels"]) for b in bins),
        ),
        note=f"Expected calibration error {ece}.",
    )


def _calibration(side: float, bins: Sequence[Mapping[str, float]]) -> Body:
    frame = plot(side, side, (0.0, 1.0), (0.0, 1.0))
    points = [frame.at(b["mean_probability"], b["observed"]) for b in bins]
    parts = [
        frame.grid("predicted probability", "share that is lesion"),
        line(frame.at(0, 0), frame.at(1, 1), "reference"),
        path(points, "best"),
    ]
    most = math.log1p(max(b["voxels"] for b in bins))
    for b, (x, y) in zip(bins, points, strict=True):
        voxels = int(b["voxels"])
        left, right = frame.x(b["low"]), frame.x(b["high"])
        tall = 34 * math.log1p(voxels) / most
        parts.append(bar(left + 1, frame.y.start - tall, right - left - 2, tall, "fill", tip=f"{voxels} voxels"))
        parts.append(dot(x, y, Shape.DISC, "main", tip=f"{b['mean_probability']:.2f}: {b['observed']:.2f} are lesion"))
    return side, "".join(parts)


def strata_figure(evidence: Evidence) -> Figure | None:
    """Dice by lesion volume; None where it was not measured."""
    strata = evidence.model("winner").get("strata", ())
    rows = [
        IntervalRow(f"{s['name']} (n = {s['patients']})", s["dice"]["mean"], s["dice"]["low"], s["dice"]["high"])
        for s in strata
        if s["dice"]["mean"] is not None
    ]
    if not rows:
        return None
    title = "Test Dice by lesion volume"
    return Figure(
        key="strata",
        title=title,
        reading="Mean Dice of the patients of each stratum with its 95% bootstrap interval: whether small lesions are "
        "found too.",
        drawings=responsive(
            "strata",
            title,
            "; ".join(f"{row.name} {row.value:.3f}" for row in rows),
            lambda width: interval_rows(width, rows, (0.0, 1.0), "test Dice"),
        ),
        table=Table(
            ("stratum", "patients", "Dice", "95% low", "95% high"),
            tuple((s["name"], s["patients"], s["dice"]["mean"], s["dice"]["low"], s["dice"]["high"]) for s in strata),
        ),
    )


def pareto_figure(evidence: Evidence) -> Figure | None:
    """Dice against cost; None where cost was no objective."""
    pareto: Mapping[str, Any] = evidence.evaluation.get("pareto") or {}
    front = sorted(pareto.get("trials", ()), key=lambda trial: trial["cost"])
    if not front:
        return None
    title = "What a better Dice costs"
    axis = f"{pareto['cost']} ({pareto['unit']})"
    return Figure(
        key="pareto",
        title=title,
        reading="The trials that no other beats in both: each step to the right buys Dice with cost.",
        drawings=(panel("pareto", title, counted(len(front), "trial"), lambda width: _pareto(width, front, axis)),),
        table=Table(("trial", "validation Dice", axis), tuple((t["trial"], t["dice"], t["cost"]) for t in front)),
    )


def _pareto(width: float, front: Sequence[Mapping[str, Any]], axis: str) -> Body:
    height = 260.0
    frame = plot(width, height, covering([t["cost"] for t in front]), covering([t["dice"] for t in front]))
    points = [frame.at(t["cost"], t["dice"]) for t in front]
    parts = [frame.grid(axis, "validation Dice", about=4), path(points, "best")]
    for trial, (x, y) in zip(front, points, strict=True):
        parts.append(dot(x, y, Shape.DISC, "main", tip=f"Trial {trial['trial']}: Dice {trial['dice']:.3f}"))
        parts.append(text(x + 7, y + 14, str(trial["trial"]), class_="tick"))
    return height, "".join(parts)
