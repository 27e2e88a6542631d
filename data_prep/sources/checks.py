"""What every scan must be, whatever file it came from."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import InputError

LEAST_SIDE = 16
"""Pixels; a smaller picture is no slice of a head."""
MOST_VOXELS = 2**29
"""Of a volume: 2,048 slices of 512 x 512. A header that claims more is broken, or a trap."""
AXIAL_MM = (0.05, 50.0)
"""Distances between voxel centres that a head CT can have."""


def check_shape(path: Path, shape_ZHW: Sequence[int]) -> None:
    """See that a volume's size is one that a head can have.

    Raises:
        InputError: it is too small, or larger than any scan.
    """
    size = " x ".join(str(side) for side in shape_ZHW)
    if min(shape_ZHW) < 1 or min(shape_ZHW[1:]) < LEAST_SIDE:
        raise InputError(f"{path}: {size} voxels; a slice has at least {LEAST_SIDE} x {LEAST_SIDE}, replace the file")
    if math.prod(int(side) for side in shape_ZHW) > MOST_VOXELS:
        raise InputError(f"{path}: {size} voxels by its header, more than any head CT; replace the file")


def check_finite(path: Path, values: NDArray[Any]) -> None:
    """See that a scan holds numbers only.

    Raises:
        InputError: it holds NaN or infinity.
    """
    if not np.issubdtype(values.dtype, np.inexact):
        return
    bad = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InputError(
            f"{path}: {bad} of {np.size(values)} voxels are NaN or infinite; replace them by air (-1000 HU) where they "
            "are padding, or the file"
        )


def check_hu(path: Path, values_hu: NDArray[np.float32]) -> None:
    """See that values can be HU: a range of less than 2 is a scan that was rescaled, or an empty one.

    Raises:
        InputError: they cannot.
    """
    lowest, highest = float(values_hu.min()), float(values_hu.max())
    if highest - lowest < 2:
        raise InputError(
            f"{path}: values from {lowest:g} to {highest:g} are no Hounsfield units; export the scan without rescaling"
        )
