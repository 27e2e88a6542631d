"""Figures of a whole test: means with intervals over patients, differences between models, tables.

Legend of roles: a model's name in the results, for example winner and defaults.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from data_prep.files import write_text_atomically
from lcnn.evaluate import PatientResult
from lcnn.intervals import Estimate, estimate_difference, estimate_mean

METRICS = ("dice", "precision", "recall", "hd95")


def summarise(results: Mapping[str, Sequence[PatientResult]]) -> dict[str, Any]:
    """Means with intervals for every model, and the winner's paired difference to the defaults."""
    models = {
        role: {metric: asdict(_mean(rows, metric)) for metric in METRICS} | _volumes(rows)
        for role, rows in results.items()
    }
    summary: dict[str, Any] = {"models": models}
    if "winner" in results and "defaults" in results:
        summary["difference"] = {
            metric: asdict(
                estimate_difference(_column(results["winner"], metric), _column(results["defaults"], metric))
            )
            for metric in METRICS
        }
    return summary


def _cell(value: str | float) -> str | float:
    if isinstance(value, str):
        return value
    return "" if is_undefined(value) else round(value, 6)


def is_undefined(value: object) -> bool:
    """Whether a figure is NaN, which by the empty rule means that there is none."""
    return isinstance(value, float) and math.isnan(value)


def _column(rows: Sequence[PatientResult], metric: str) -> list[float]:
    return [getattr(row, metric) for row in rows]


def _mean(rows: Sequence[PatientResult], metric: str) -> Estimate:
    return estimate_mean(_column(rows, metric))


def _volumes(rows: Sequence[PatientResult]) -> dict[str, Any]:
    """Absolute volume error over all patients, and false alarms on those without lesion."""
    free = [row for row in rows if row.true_volume == 0]
    error = estimate_mean([abs(row.predicted_volume - row.true_volume) for row in rows])
    return {
        "absolute_volume_error": asdict(error),
        "volume_unit": "/".join(sorted({row.volume_unit for row in rows})),
        "distance_unit": "/".join(sorted({row.distance_unit for row in rows})),
        "lesion_free_patients": len(free),
        "lesion_free_with_false_alarm": sum(row.predicted_volume > 0 for row in free),
    }


def write_patients(path: Path, results: Mapping[str, Sequence[PatientResult]]) -> None:
    """All test figures, a row a model and patient; an undefined value is an empty cell."""
    buffer = io.StringIO()
    columns = ["model", *(f.name for f in fields(PatientResult))]
    writer: csv.DictWriter[str] = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for role, rows in results.items():
        for row in rows:
            values = {key: _cell(value) for key, value in asdict(row).items()}
            writer.writerow({"model": role, **values})
    write_text_atomically(path, buffer.getvalue())


def write_evaluation(path: Path, content: Mapping[str, Any]) -> None:
    """The evaluation as JSON."""
    write_text_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def estimate_text(values: Mapping[str, Any], unit: str = "") -> str:
    """Mean, 95% interval and number of patients of a stored estimate."""
    return Estimate(**values).text(unit)
