"""Couch removal: what is not the head (couch, head holder, wires, air) becomes air.

Legend: Z slices, H rows, W columns (native); h rows, w columns, coarse.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.preprocessing.coarse import (
    Mask,
    Spacing,
    disc,
    enlarge,
    filled,
    framed,
    largest_part,
    shrink,
    shrink_factor,
    unframed,
)

HEAD_GREY = 24
"""Grey value of 255 from which a coarse pixel is no air."""
SKIN_GAP_MM = 4.0
"""Gaps in the skin that are closed before the head is filled, as a radius."""
COUCH_MM = 6.0
"""What is thinner than twice this is cut from the head."""


def head_mask(image_ZHW: NDArray[np.uint8], voxel_mm: Spacing) -> Mask:
    """Where the head is, (Z, H, W): skin and all that it encloses; everywhere, where no head is found.

    The head is the largest part, in 3D, of what is not air, after its slices were filled and thin things cut off by an
    opening.

    Args:
        image_ZHW: grey values.
        voxel_mm: distances between voxel centres.
    """
    factor = shrink_factor(voxel_mm)
    gap, couch = (disc(radius, voxel_mm, factor) for radius in (SKIN_GAP_MM, COUCH_MM))
    solid_Zhw = framed(shrink(image_ZHW, factor) >= HEAD_GREY, gap)
    solid_Zhw = unframed(filled(ndimage.binary_closing(solid_Zhw, gap)), gap)
    head_Zhw = largest_part(ndimage.binary_opening(solid_Zhw, couch))
    if not head_Zhw.any():
        return np.ones(image_ZHW.shape, dtype=np.bool_)
    head_Zhw = ndimage.binary_dilation(head_Zhw, disc(0.0, voxel_mm, factor))
    return enlarge(head_Zhw, factor, image_ZHW.shape[1:])
