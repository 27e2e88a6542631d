"""Segmentation metrics of one patient: counts first, formula second.

The empty rule, figure by figure. NaN means that there is no such figure; it is left out of means and not counted.

    figure                          false alarm      missed lesion    rightly empty
    Dice, surface Dice              NaN              0                NaN
    recall, lesion-wise F1          NaN              0                NaN
    precision                       0                NaN              NaN
    HD95                            NaN              NaN              NaN
    lesion counts and volumes       as counted       as counted       0
    their differences               the prediction   the lesion       0
    calibration error               around it        around it        NaN

A false alarm on a lesion-free patient is therefore not hidden inside a mean Dice: it shows as that patient's predicted
volume and in the specificity. A missed lesion is not hidden by HD95 or precision either, which leave it out: it is a
Dice of 0 and lowers the sensitivity.

The rule for ignored voxels: prediction and truth are both cut by them before anything is counted, as for the void label
of PASCAL VOC (Everingham et al. 2010, IJCV 88:303) and nnU-Net's ignore label. So what is predicted there changes no
figure: a predicted region wholly within them is no false lesion, one that reaches out of them is judged by its parts
outside, surfaces are those of the parts, volumes and calibration leave them out. They are no lesion: a patient with
nothing but ignored voxels counts as one without lesion.

Without a spacing, distances are in voxels. Between slices they then mean little, so a tolerance holds within the slice.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

NAN = math.nan
TOLERANCE = 5.0
"""Distance within which a surface counts as met: mm; without a spacing pixels, within the slice only."""


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
    with _monai_metrics() as metrics:
        distance = metrics.compute_hausdorff_distance(
            _one_class(predicted_ZHW), _one_class(true_ZHW), include_background=True, percentile=95, spacing=spacing
        )
    return float(distance)


def surface_dice(
    predicted_ZHW: NDArray[np.bool_], true_ZHW: NDArray[np.bool_], spacing: tuple[float, float, float] | None
) -> float:
    """Share of the surface voxels of both masks that have the other surface within `TOLERANCE` (MONAI).

    The normalised surface Dice of Nikolov et al. (2021, J Med Internet Res 23:e26151), over surface voxels instead of
    surface areas (Seidlitz et al. 2022, arXiv 2111.05408). NaN without true lesion, 0 where none is predicted.
    """
    if not true_ZHW.any():
        return NAN
    if not predicted_ZHW.any():
        return 0.0
    # Slices of unknown distance are put out of each other's reach.
    apart = spacing or (2 * TOLERANCE, 1.0, 1.0)
    with _monai_metrics() as metrics:
        share = metrics.compute_surface_dice(
            _one_class(predicted_ZHW), _one_class(true_ZHW), [TOLERANCE], include_background=True, spacing=apart
        )
    return float(share)


def _one_class(mask_ZHW: NDArray[np.bool_]) -> torch.Tensor:
    return torch.from_numpy(mask_ZHW)[None, None]


@contextmanager
def _monai_metrics() -> Iterator[ModuleType]:
    """MONAI's metrics, imported here: that takes two seconds, which no trial and no mistyped command needs."""
    from monai import metrics  # noqa: PLC0415

    with warnings.catch_warnings():
        # MONAI 1.6 passes its own deprecated argument.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        yield metrics


def mean_defined(values: "list[float] | NDArray[np.float64]") -> float:
    """Mean of the values that are not NaN; NaN where there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else NAN
