"""Lesions as things to be found: connected regions of the truth and of the prediction, and which meet.

Regions are connected over faces, edges and corners (26 neighbours). A lesion counts as found where any voxel of it is
predicted, and a predicted region as a false one where no voxel of it is lesion: the matching by any overlap of the
ISLES 2022 challenge (Hernandez Petzsche et al. 2022, Scientific Data 9:762). It says whether a lesion was noticed, not
how well it was outlined, which is what Dice says.

Legend: Z slices of a patient, H rows, W columns.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CONNECTED_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of one patient by what was predicted and what is true."""

    true: int
    """Lesions in the truth."""
    predicted: int
    """Regions of the prediction."""
    found: int
    """Lesions of which some voxel is predicted."""
    false: int
    """Predicted regions without a voxel of lesion."""

    @property
    def f1(self) -> float:
        """2 * found / (2 * found + missed + false); NaN without true lesion."""
        missed = self.true - self.found
        return 2 * self.found / (2 * self.found + missed + self.false) if self.true else math.nan


def count_lesions(predicted_ZHW: NDArray[np.bool_], true_ZHW: NDArray[np.bool_]) -> LesionCounts:
    """Lesions of two masks of the same shape."""
    predicted_regions_ZHW, predicted = ndimage.label(predicted_ZHW, structure=CONNECTED_26)
    true_regions_ZHW, true = ndimage.label(true_ZHW, structure=CONNECTED_26)
    both_ZHW = predicted_ZHW & true_ZHW
    return LesionCounts(
        true=true,
        predicted=predicted,
        found=len(np.unique(true_regions_ZHW[both_ZHW])),
        false=predicted - len(np.unique(predicted_regions_ZHW[both_ZHW])),
    )
