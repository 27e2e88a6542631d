"""Evaluation of a trained model, patient by patient, on each patient's own pixel grid.

Training-time Dice is computed at the stored size; here predictions are brought back to the native grid and
compared with the masks as they were drawn.

Legend: Z slices of a patient, H rows, W columns (native), S stored side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.cohort import Cohort
from data_prep.store import read_patient
from lcnn.metrics import count, hd95
from lcnn.model_file import TrainedModel
from lcnn.predict import predict_volume

THRESHOLD = 0.5
"""Probability from which a voxel is taken for lesion."""


@dataclass(frozen=True)
class PatientResult:
    """One patient's figures; NaN by the empty rule of `lcnn.metrics`."""

    patient: str
    dice: float
    precision: float
    recall: float
    hd95: float
    """95th-percentile surface distance, in ``distance_unit``."""
    true_volume: float
    """Lesion volume by the mask, in ``volume_unit``."""
    predicted_volume: float
    distance_unit: str
    """mm where the spacing is known, else voxels."""
    volume_unit: str
    """ml where the spacing is known, else voxels."""


@dataclass(frozen=True)
class Case:
    """A patient's picture, truth and prediction on the native grid, with the figures."""

    result: PatientResult
    image_ZHW: NDArray[np.uint8]
    true_ZHW: NDArray[np.bool_]
    predicted_ZHW: NDArray[np.bool_]


def evaluate(
    model: TrainedModel,
    cohort: Cohort,
    root: Path,
    patients: Sequence[str],
    *,
    on_case: Callable[[Case], None] | None = None,
) -> list[PatientResult]:
    """Predict and score ``patients``; ``on_case`` sees each with its pictures before they are let go.

    Raises:
        InputError: a slice or mask cannot be read.
    """
    by_id = {patient.id: patient for patient in cohort.patients}
    results = []
    for name in patients:
        image, mask = read_patient(by_id[name], root)
        predicted = predict_volume(model, image) >= THRESHOLD
        case = Case(score_patient(name, predicted, mask > 0, by_id[name].spacing_mm), image, mask > 0, predicted)
        results.append(case.result)
        if on_case:
            on_case(case)
    return results


def score_patient(
    patient: str,
    predicted_ZHW: NDArray[np.bool_],
    true_ZHW: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float] | None,
) -> PatientResult:
    """All figures of one patient's masks."""
    counts = count(predicted_ZHW, true_ZHW)
    voxel = float(np.prod(spacing_mm)) / 1000 if spacing_mm else 1.0
    return PatientResult(
        patient=patient,
        dice=counts.dice,
        precision=counts.precision,
        recall=counts.recall,
        hd95=hd95(predicted_ZHW, true_ZHW, spacing_mm),
        true_volume=counts.true * voxel,
        predicted_volume=counts.predicted * voxel,
        distance_unit="mm" if spacing_mm else "voxels",
        volume_unit="ml" if spacing_mm else "voxels",
    )
