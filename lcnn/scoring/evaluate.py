"""Evaluation of a trained model, patient by patient, on each patient's own pixel grid.

Training-time Dice is computed at the stored size; here predictions are brought back to the native grid and
compared with the masks as they were drawn.

Legend: Z slices of a patient, K windows, H rows, W columns (native).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.cohort.layout import Cohort, voxel_ml
from data_prep.cohort.pixels import pixels_of
from data_prep.cohort.store import read_patient
from data_prep.volumes.mask import ignored_in, lesion_in
from lcnn.inference.model_file import TrainedModel
from lcnn.inference.model_windows import pixels_for
from lcnn.inference.predict import predict_volume
from lcnn.metrics import count, hd95, surface_dice
from lcnn.scoring.calibration import Reliability, reliability
from lcnn.scoring.lesions import count_lesions

THRESHOLD = 0.5
"""Probability from which a voxel is taken for lesion."""


@dataclass(frozen=True)
class PatientResult:
    """One patient's figures; NaN by the empty rule of `lcnn.metrics`."""

    patient: str
    dice: float
    surface_dice: float
    """Surface within 5 mm of the other surface; without a spacing within 5 pixels in the slice."""
    hd95: float
    """95th-percentile surface distance, in ``distance_unit``."""
    precision: float
    recall: float
    lesion_f1: float
    """Lesion-wise F1 by any overlap."""
    true_lesions: int
    """Connected lesions of the mask."""
    predicted_lesions: int
    true_volume: float
    """Lesion volume by the mask, in ``volume_unit``."""
    predicted_volume: float
    distance_unit: str
    """mm where the spacing is known, else voxels."""
    volume_unit: str
    """ml where the spacing is known, else voxels."""
    reliability: Reliability = field(repr=False)
    """Probabilities against the truth, around lesions."""
    group: int | None = None
    """As of a `data_prep.cohort.layout.Patient`: number that scans of one person share."""

    @property
    def person(self) -> int | str:
        """What scans of one person have in common."""
        return self.patient if self.group is None else self.group

    @property
    def lesion_count_difference(self) -> int:
        """By how many the number of predicted lesions is off."""
        return abs(self.predicted_lesions - self.true_lesions)

    @property
    def volume_difference(self) -> float:
        """By how much the predicted volume is off, in ``volume_unit``."""
        return abs(self.predicted_volume - self.true_volume)

    @property
    def ece(self) -> float:
        """Expected calibration error around lesions, 0..1."""
        return self.reliability.error


@dataclass(frozen=True)
class Case:
    """A patient's picture in the first window, truth and prediction on the native grid, with the figures.

    The masks are whole: what is ignored is cut from the figures alone.
    """

    result: PatientResult
    image_ZHW: NDArray[np.uint8]
    true_ZHW: NDArray[np.bool_]
    predicted_ZHW: NDArray[np.bool_]
    ignored_ZHW: NDArray[np.bool_] | None = None
    """Voxels that are not scored; None where the cohort has none."""


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
        InputError: a slice or mask cannot be read, or the model sees another number of windows.
    """
    pixels = pixels_for(model, pixels_of(cohort), cohort.name)
    by_id = {patient.id: patient for patient in cohort.patients}
    results = []
    for name in patients:
        image_ZKHW, label = read_patient(by_id[name], root, pixels, has_ignored=cohort.has_ignored)
        true, ignored = lesion_in(label), ignored_in(label) if cohort.has_ignored else None
        probability = predict_volume(model, image_ZKHW, by_id[name].spacing_mm)
        result = score_patient(name, probability, true, by_id[name].spacing_mm, ignored)
        result = replace(result, group=by_id[name].group)
        case = Case(result, image_ZKHW[:, 0], true, probability >= THRESHOLD, ignored)
        results.append(case.result)
        if on_case:
            on_case(case)
    return results


def score_patient(
    patient: str,
    probability_ZHW: NDArray[np.floating],
    true_ZHW: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float] | None,
    ignored_ZHW: NDArray[np.bool_] | None = None,
) -> PatientResult:
    """All figures of one patient's predicted probabilities (0..1) and true mask, outside of what is ignored."""
    predicted_ZHW = probability_ZHW >= THRESHOLD
    if ignored_ZHW is not None:
        predicted_ZHW, true_ZHW = predicted_ZHW & ~ignored_ZHW, true_ZHW & ~ignored_ZHW
    counts = count(predicted_ZHW, true_ZHW)
    lesions = count_lesions(predicted_ZHW, true_ZHW)
    voxel = voxel_ml(spacing_mm) if spacing_mm else 1.0
    return PatientResult(
        patient=patient,
        dice=counts.dice,
        surface_dice=surface_dice(predicted_ZHW, true_ZHW, spacing_mm),
        hd95=hd95(predicted_ZHW, true_ZHW, spacing_mm),
        precision=counts.precision,
        recall=counts.recall,
        lesion_f1=lesions.f1,
        true_lesions=lesions.true,
        predicted_lesions=lesions.predicted,
        true_volume=counts.true * voxel,
        predicted_volume=counts.predicted * voxel,
        distance_unit="mm" if spacing_mm else "voxels",
        volume_unit="ml" if spacing_mm else "voxels",
        reliability=reliability(probability_ZHW, predicted_ZHW, true_ZHW, spacing_mm, ignored_ZHW),
    )
