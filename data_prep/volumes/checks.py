"""What every scan must be, whatever file it came from."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.common.errors import InputError

LEAST_SIDE = 16
"""Pixels; a smaller picture is no slice of a head."""
MOST_VOXELS = 2**29
"""Of a volume: 2,048 slices of 512 x 512. A header that claims more is broken, or a trap."""
AXIAL_MM = (0.05, 50.0)
"""Distances between voxel centres that a head CT can have."""
BRAIN = (-200.0, 300.0)
"""HU that the median of a scan's middle third may have, with room for skull bases, bleedings and narrow scans."""
LOST_INTERCEPT = (850.0, 1250.0)
"""Where it lies if 1000 or 1024 were added to the HU; no middle of a head is of bone."""
LEAST_BRAIN = 0.05
"""Share of voxels within `BRAIN` from which a head that is not in the middle is believed."""
AIR_BELOW, LEAST_AIR = -500.0, 0.01
"""HU of air and padding, and the share of a scan with its surroundings that they have at least."""


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


def check_finite(path: Path, values: NDArray[Any], *, is_mask: bool = False) -> None:
    """See that a scan, or a mask, holds numbers only.

    Raises:
        InputError: it holds NaN or infinity.
    """
    if not np.issubdtype(values.dtype, np.inexact):
        return
    bad = int(np.size(values) - np.count_nonzero(np.isfinite(values)))
    if bad:
        padding = "0" if is_mask else "air (-1000 HU)"
        raise InputError(
            f"{path}: {bad} of {np.size(values)} voxels are NaN or infinite; replace padding by {padding}, or replace "
            "the file"
        )


def check_hu(path: Path, values_hu: NDArray[np.float32], hu_offset: int | None = None) -> str | None:
    """See that values can be HU, by their range and by what lies in the middle of the scan, where brain is.

    Brain is within 100 HU of 0. A scan that lost its rescale intercept has it near 1024, whatever lies around the head,
    and a scan that was cut to the brain has it right, so neither is taken for the other.

    Args:
        path: the file, for messages.
        values_hu: its values, without ``hu_offset``.
        hu_offset: what a person said was added to them; None where nothing was said.

    Returns:
        What cannot be decided and a person should see to; None where there is air around the head.

    Raises:
        InputError: they cannot.
    """
    lowest, highest = float(values_hu.min()), float(values_hu.max())
    if highest - lowest < 2:
        raise InputError(
            f"{path}: values from {lowest:g} to {highest:g} are no Hounsfield units; export the scan without rescaling"
        )
    middle_hu = float(np.median(values_hu[tuple(slice(side // 3, side - side // 3) for side in values_hu.shape)]))
    if LOST_INTERCEPT[0] < middle_hu < LOST_INTERCEPT[1]:
        raise InputError(
            f"{path}: {middle_hu:.0f} in its middle, where brain has 0 to 100 HU, as in scans that lost their rescale "
            "intercept; say by --hu-offset what was added to the HU (mostly 1024, else 1000)"
        )
    is_off_centre = middle_hu < BRAIN[0] and _share(values_hu, BRAIN) > LEAST_BRAIN
    if not BRAIN[0] <= middle_hu <= BRAIN[1] and hu_offset:
        raise InputError(
            f"{path}: {middle_hu:.0f} in its middle without the {hu_offset} of --hu-offset, where brain has 0 to "
            "100 HU; leave the option out for scans that hold HU, or say what was added"
        )
    if not BRAIN[0] <= middle_hu <= BRAIN[1] and not is_off_centre:
        raise InputError(
            f"{path}: {middle_hu:.0f} in its middle, where brain has 0 to 100 HU; say by --hu-offset what was added to "
            "the HU, or export the scan in HU"
        )
    if float((values_hu < AIR_BELOW).mean()) < LEAST_AIR:
        return (
            f"no air in it, values from {lowest:g} to {highest:g}: taken for HU of a brain that was cut out, which is "
            "wrong if they are grey values of a window"
        )
    return None


def _share(values_hu: NDArray[np.float32], bounds: tuple[float, float]) -> float:
    return float(((values_hu >= bounds[0]) & (values_hu <= bounds[1])).mean())
