"""Whether a probability of 0.7 is right in 7 of 10 voxels: reliability by bins, and their expected error.

Nearly all voxels of a head are healthy and given a probability near 0, so over whole volumes every model looks
calibrated. What counts here are the voxels around lesions: those within `MARGIN` of a true or a predicted one. A
patient with neither has no such voxels and no calibration error.

Legend: Z slices of a patient, H rows, W columns, K bins of probability.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BINS = 10
MARGIN = 10.0
"""How far around lesions voxels count, along each axis: mm; without a spacing pixels, within the slice only."""


@dataclass(frozen=True)
class Reliability:
    """Sums over voxels by equal bins of their probability; those of several patients can be added."""

    voxels_K: tuple[int, ...]
    """How many voxels have a probability in the bin; the last bin holds 1 as well."""
    lesion_K: tuple[int, ...]
    """How many of them are lesion."""
    probability_K: tuple[float, ...]
    """Sum of their probabilities."""

    @property
    def error(self) -> float:
        """Expected calibration error, 0..1, of the lesion's probability; NaN without voxels.

        The mean over the bins of |share of lesion - mean probability|, weighted by voxels (Naeini, Cooper and
        Hauskrecht 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning).
        """
        total = sum(self.voxels_K)
        gaps = (abs(lesion - p) for lesion, p in zip(self.lesion_K, self.probability_K, strict=True))
        return sum(gaps) / total if total else math.nan

    def bins(self) -> list[dict[str, Any]]:
        """Each bin's bounds, mean probability, share of lesion and voxels; None for the means of an empty bin."""
        rows = zip(self.voxels_K, self.lesion_K, self.probability_K, strict=True)
        return [
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "mean_probability": probability / voxels if voxels else None,
                "observed": lesion / voxels if voxels else None,
                "voxels": voxels,
            }
            for k, (voxels, lesion, probability) in enumerate(rows)
        ]


def reliability(
    probability_ZHW: NDArray[np.floating],
    predicted_ZHW: NDArray[np.bool_],
    true_ZHW: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float] | None,
    ignored_ZHW: NDArray[np.bool_] | None = None,
) -> Reliability:
    """Reliability of one patient's probabilities (0..1) around true and predicted lesions, where nothing is ignored."""
    region_ZHW = around(predicted_ZHW | true_ZHW, spacing_mm)
    if ignored_ZHW is not None:
        region_ZHW &= ~ignored_ZHW
    probability = probability_ZHW[region_ZHW].astype(np.float64)
    bin_of = np.minimum((probability * BINS).astype(int), BINS - 1)
    lesion = true_ZHW[region_ZHW]
    return Reliability(
        voxels_K=tuple(np.bincount(bin_of, minlength=BINS).tolist()),
        lesion_K=tuple(np.bincount(bin_of[lesion], minlength=BINS).tolist()),
        probability_K=tuple(np.bincount(bin_of, weights=probability, minlength=BINS).tolist()),
    )


def around(mask_ZHW: NDArray[np.bool_], spacing_mm: tuple[float, float, float] | None) -> NDArray[np.bool_]:
    """Voxels within `MARGIN` of the mask along each axis."""
    reach = [int(MARGIN / step) for step in spacing_mm] if spacing_mm else [0, int(MARGIN), int(MARGIN)]
    size = tuple(2 * steps + 1 for steps in reach)
    return ndimage.maximum_filter(mask_ZHW, size=size, mode="constant", cval=False)


def pooled(patients: Iterable[Reliability]) -> Reliability:
    """The reliability over all voxels of several patients."""
    rows = list(patients)

    def total(name: str) -> tuple[Any, ...]:
        return tuple(sum(column) for column in zip(*(getattr(row, name) for row in rows), strict=True))

    return Reliability(total("voxels_K"), total("lesion_K"), total("probability_K"))
