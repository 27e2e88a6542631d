"""Segmentation metrics of one patient: counts first, formula second.

The empty rule: a patient without lesion has no Dice and no recall, a prediction without lesion no precision;
they are NaN and left out of means. A false alarm on a lesion-free patient is therefore not hidden inside a mean
Dice; it shows as that patient's predicted volume. Where there is a lesion and none is predicted, Dice is 0.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from numpy.typing import NDArray

NAN = math.nan


@dataclass(frozen=True)
class Counts:
    """Voxels of one patient by what was predicted and what is true."""

    both: float
    """Lesion in both: true positives."""
    predicted: float
    """Lesion in the prediction."""
    true: float
    """Lesion in the truth."""

    @property
    def dice(self) -> float:
        """2 * both / (predicted + true); NaN without true lesion."""
        return 2 * self.both / (self.predicted + self.true) if self.true else NAN

    @property
    def precision(self) -> float:
        """Share of the prediction that is lesion; NaN where nothing is predicted."""
        return self.both / self.predicted if self.predicted else NAN

    @property
    def recall(self) -> float:
        """Share of the lesion that is predicted; NaN without lesion."""
        return self.both / self.true if self.true else NAN


def count(predicted_ZHW: NDArray[np.bool_], true_ZHW: NDArray[np.bool_]) -> Counts:
    """Counts of two masks of the same shape."""
    return Counts(
        both=int(np.count_nonzero(predicted_ZHW & true_ZHW)),
        predicted=int(np.count_nonzero(predicted_ZHW)),
        true=int(np.count_nonzero(true_ZHW)),
    )


def hd95(
    predicted_ZHW: NDArray[np.bool_], true_ZHW: NDArray[np.bool_], spacing: tuple[float, float, float] | None
) -> float:
    """95th percentile of the symmetric surface distance (MONAI), in mm, or in voxels without ``spacing``.

    NaN where either mask is empty: there is no distance to nothing.
    """
    if not predicted_ZHW.any() or not true_ZHW.any():
        return NAN
    with warnings.catch_warnings():
        # MONAI 1.6 passes its own deprecated argument.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        distance = compute_hausdorff_distance(
            torch.from_numpy(predicted_ZHW)[None, None],
            torch.from_numpy(true_ZHW)[None, None],
            include_background=True,
            percentile=95,
            spacing=spacing,
        )
    return float(distance)


def mean_defined(values: "list[float] | NDArray[np.float64]") -> float:
    """Mean of the values that are not NaN; NaN where there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else NAN
