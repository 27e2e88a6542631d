"""Figures of a whole test: means with intervals over patients, strata, calibration, comparisons, tables.

Where some patients are scans of one person, means, intervals, tests and the numbers of patients beside them are over
persons; see `lcnn.scoring.intervals`.

Legend of roles: a model's name in the results, for example winner and defaults.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.common.files import write_text_atomically
from lcnn.scoring.calibration import pooled
from lcnn.scoring.comparison import compare_models
from lcnn.scoring.evaluate import PatientResult
from lcnn.scoring.intervals import Estimate, by_person, estimate_mean, estimate_share

METRICS = (
    "dice",
    "surface_dice",
    "hd95",
    "precision",
    "recall",
    "lesion_f1",
    "lesion_count_difference",
    "volume_difference",
    "ece",
)
"""Figures of a patient of which means are taken; Dice, the first, is the one that models are judged by."""
COLUMNS = (
    "patient",
    "dice",
    "surface_dice",
    "hd95",
    "precision",
    "recall",
    "lesion_f1",
    "true_lesions",
    "predicted_lesions",
    "true_volume",
    "predicted_volume",
    "volume_difference",
    "ece",
    "distance_unit",
    "volume_unit",
)
BOUNDS_ML = (5.0, 20.0)
"""Where small lesions end and large ones begin; without a spacing the terciles of the tested lesions."""
STRATUM_METRICS = ("dice", "surface_dice", "lesion_f1", "recall")


def summarise(results: Mapping[str, Sequence[PatientResult]]) -> dict[str, Any]:
    """The figures of every model, and the first compared with each of the others.

    Raises:
        ValueError: models were tested on different patients.
    """
    if len({tuple(row.patient for row in rows) for rows in results.values()}) > 1:
        raise ValueError("models that are compared must be tested on the same patients, in the same order")
    figures = {role: {metric: _column(rows, metric) for metric in METRICS} for role, rows in results.items()}
    persons = next(([row.person for row in rows] for rows in results.values()), None)
    return {
        "models": {role: _model(rows) for role, rows in results.items()},
        "comparisons": [asdict(comparison) for comparison in compare_models(figures, persons)],
    }


def _model(rows: Sequence[PatientResult]) -> dict[str, Any]:
    free = [row for row in rows if row.true_volume == 0]
    return {
        **{metric: asdict(_estimate(rows, metric)) for metric in METRICS},
        "detection": {name: asdict(estimate) for name, estimate in detection(rows).items()},
        "strata": strata(rows),
        "calibration": _calibration(rows),
        "volume_unit": "/".join(sorted({row.volume_unit for row in rows})),
        "distance_unit": "/".join(sorted({row.distance_unit for row in rows})),
        "lesion_free_patients": len({row.person for row in free}),
        "lesion_free_with_false_alarm": len({row.person for row in free if row.predicted_volume > 0}),
    }


def detection(rows: Sequence[PatientResult]) -> dict[str, Estimate]:
    """The model as a test for having a lesion.

    Sensitivity: of the patients with a lesion, those of whose lesion some voxel is predicted; a prediction elsewhere in
    the head is no detection. Specificity: of the patients without, those for whom nothing is predicted.
    """
    ill = [row for row in rows if row.true_volume > 0]
    free = [row for row in rows if row.true_volume == 0]
    return {
        "sensitivity": _share(ill, [row.recall > 0 for row in ill]),
        "specificity": _share(free, [row.predicted_volume == 0 for row in free]),
    }


def _share(rows: Sequence[PatientResult], is_hit: Sequence[bool]) -> Estimate:
    shares = by_person([float(hit) for hit in is_hit], [row.person for row in rows])
    return estimate_share(math.fsum(shares), len(shares))


def strata(rows: Sequence[PatientResult]) -> list[dict[str, Any]]:
    """Figures of patients with small, middle and large lesions, apart for each unit of volume.

    Volumes in ml are cut at `BOUNDS_ML`. Volumes in voxels of unknown size mean nothing from one cohort to another, so
    they are cut into thirds of those at hand. Patients without lesion are in no stratum.
    """
    ill = [row for row in rows if row.true_volume > 0]
    return [
        _stratum([row for row in ill if row.volume_unit == unit], unit, low, high)
        for unit in sorted({row.volume_unit for row in ill})
        for low, high in pairwise(_bounds([row.true_volume for row in ill if row.volume_unit == unit], unit))
    ]


def _bounds(volumes: Sequence[float], unit: str) -> tuple[float, ...]:
    inner = BOUNDS_ML if unit == "ml" else tuple(np.quantile(volumes, [1 / 3, 2 / 3]).tolist())
    return (0.0, *inner, math.inf)


def _stratum(rows: Sequence[PatientResult], unit: str, low: float, high: float) -> dict[str, Any]:
    inside = [row for row in rows if low <= row.true_volume < high]
    words = f"{low:,.0f} {unit} and more" if math.isinf(high) else f"{low:,.0f} to {high:,.0f} {unit}"
    figures = {metric: asdict(_estimate(inside, metric)) for metric in STRATUM_METRICS}
    return {"name": words, "patients": len({row.person for row in inside}), **figures}


def _estimate(rows: Sequence[PatientResult], metric: str) -> Estimate:
    return estimate_mean(_column(rows, metric), [row.person for row in rows])


def _calibration(rows: Sequence[PatientResult]) -> dict[str, Any]:
    """Reliability over the voxels around the lesions of all patients; the error is None without such voxels."""
    everyone = pooled(row.reliability for row in rows)
    return {"ece": None if is_undefined(everyone.error) else everyone.error, "bins": everyone.bins()}


def _cell(value: str | float | None) -> str | float:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return "" if is_undefined(value) else round(value, 6)


def is_undefined(value: object) -> bool:
    """Whether a figure is NaN, which by the empty rule means that there is none."""
    return isinstance(value, float) and math.isnan(value)


def _column(rows: Sequence[PatientResult], metric: str) -> list[float]:
    return [float(getattr(row, metric)) for row in rows]


def write_patients(path: Path, results: Mapping[str, Sequence[PatientResult]]) -> None:
    """All test figures, a row a model and patient; an undefined value is an empty cell.

    Where some patients are scans of one person, a last column has the group.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    is_grouped = any(row.group is not None for rows in results.values() for row in rows)
    columns = (*COLUMNS, "group") if is_grouped else COLUMNS
    writer.writerow(["model", *columns])
    for role, rows in results.items():
        writer.writerows([role, *(_cell(getattr(row, column)) for column in columns)] for row in rows)
    write_text_atomically(path, buffer.getvalue())


def write_evaluation(path: Path, content: Mapping[str, Any]) -> None:
    """The evaluation as JSON."""
    write_text_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def find_comparison(evaluation: Mapping[str, Any], theirs: str, metric: str) -> Mapping[str, Any] | None:
    """The winner compared with another model in a stored evaluation; None where they were not."""
    wanted = ("winner", theirs, metric)
    return next((c for c in evaluation.get("comparisons", ()) if (c["ours"], c["theirs"], c["metric"]) == wanted), None)


def comparison_text(comparison: Mapping[str, Any]) -> str:
    """Mean difference with its interval, and the corrected p where there is one."""
    p = comparison["p_holm"]
    return estimate_text(comparison["difference"]) + ("" if p is None else f", permutation p = {p:.3f}")


def estimate_text(values: Mapping[str, Any], unit: str = "") -> str:
    """Mean, 95% interval and number of patients of a stored estimate."""
    return Estimate(**values).text(unit)
