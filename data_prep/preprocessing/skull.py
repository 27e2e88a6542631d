"""Skull stripping: what lies outside the intracranial space becomes air.

The bone is the border; where it has holes (skull base, craniectomy), an erosion cuts the narrow connections through
them, the largest part is the brain, and a dilation gives back what the erosion took: the morphology of Brummer et al.,
"Automatic detection of brain contours in MRI data sets" (IEEE Trans. Med. Imaging 12, 1993), with bone in place of
their intensity threshold. No slice needs a closed ring of bone, so a missing piece adds scalp, and loses no brain.
Bleeding at the skull that is as bright as bone loses its rim, and all of a layer that is wide and thin.

Legend: Z slices, H rows, W columns (native); h rows, w columns, coarse.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.preprocessing.coarse import (
    IN_PLANE,
    Mask,
    Spacing,
    disc,
    enlarge,
    filled,
    largest_part,
    shrink,
    shrink_factor,
)

BONE_GREY = 250
"""Grey value of 255 from which a pixel is bone: saturated in every window, but for losses of compression."""
BONE_SHARE = 0.4
"""Share of a coarse pixel that is bone, from which it is border."""
DARK_GREY = 2
"""Grey value of 255 below which a coarse pixel is air or fat, through which nothing is connected."""
NECK_MM = 6.0
"""Half the width of the connections that are cut: nerves and vessels through the skull base, the scalp."""
DENT_MM = 30.0
"""Radius of the disc that does not fit into dents that are filled: bleeding at the skull as bright as bone."""
RIM_MM = 2.0
"""Depth to which bright pixels are taken for bone, and not for bleeding or calcification."""
LEAST_SHARE = 0.05
"""Share of the head that the intracranial space has at least, or it was not found."""


def intracranial_mask(image_ZHW: NDArray[np.uint8], head_ZHW: Mask, voxel_mm: Spacing) -> Mask:
    """Where the intracranial space is, (Z, H, W); the whole head, where it is not found.

    Args:
        image_ZHW: grey values, the bone saturated.
        head_ZHW: where the head is (`couch.head_mask`).
        voxel_mm: distances between voxel centres.
    """
    factor = shrink_factor(voxel_mm)
    head_Zhw = shrink(head_ZHW * np.uint8(255), factor) > 127
    bone_Zhw = shrink((image_ZHW >= BONE_GREY) * np.uint8(255), factor) >= BONE_SHARE * 255
    soft_Zhw = head_Zhw & ~bone_Zhw
    neck, wider = (disc(radius, voxel_mm, factor) for radius in (NECK_MM, NECK_MM + 1.0))
    dense_Zhw = soft_Zhw & (shrink(image_ZHW, factor) >= DARK_GREY)
    core_Zhw = largest_part(ndimage.binary_erosion(dense_Zhw, neck))
    inner_Zhw = ndimage.binary_dilation(core_Zhw, wider) & soft_Zhw
    inner_Zhw |= _enclosed(bone_Zhw, inner_Zhw, neck, wider)
    pixel_mm = voxel_mm[1] * factor, voxel_mm[2] * factor
    space_Zhw = filled(np.stack([_without_dents(inner_hw, pixel_mm) for inner_hw in inner_Zhw])) & head_Zhw
    if space_Zhw.sum() <= LEAST_SHARE * head_Zhw.sum():
        return head_ZHW
    return _without_rim_of_bone(space_Zhw, image_ZHW, voxel_mm, factor)


def _enclosed(bone_Zhw: Mask, inner_Zhw: Mask, neck: Mask, wider: Mask) -> Mask:
    """What bone encloses in a slice and is mostly found: fluid and infarcts there that the window made black.

    Narrow connections are cut here too, or the sinuses would come with them.
    """
    soft_Zhw = filled(bone_Zhw) & ~bone_Zhw
    labels_Zhw, _ = ndimage.label(ndimage.binary_erosion(soft_Zhw, neck), structure=IN_PLANE)
    sizes = np.bincount(labels_Zhw.ravel())
    found = np.bincount(labels_Zhw[inner_Zhw], minlength=len(sizes))
    is_mostly_found = 2 * found > sizes
    is_mostly_found[0] = False
    return ndimage.binary_dilation(is_mostly_found[labels_Zhw], wider) & soft_Zhw


def _without_dents(inner_hw: Mask, pixel_mm: tuple[float, float]) -> Mask:
    """A closing of one slice's mask by a disc, which distances do faster than a large structuring element."""
    if not inner_hw.any():
        return inner_hw
    margin = [math.ceil(DENT_MM / mm) + 1 for mm in pixel_mm]
    outside = ndimage.distance_transform_edt(~np.pad(inner_hw, [(side, side) for side in margin]), sampling=pixel_mm)
    inside = ndimage.distance_transform_edt(outside <= DENT_MM, sampling=pixel_mm)
    return np.asarray(inside > DENT_MM)[margin[0] : -margin[0], margin[1] : -margin[1]]


def _without_rim_of_bone(space_Zhw: Mask, image_ZHW: NDArray[np.uint8], voxel_mm: Spacing, factor: int) -> Mask:
    """The coarse mask at native pixels: up to a coarse pixel beyond its edge, but no bone near it."""
    native = image_ZHW.shape[1], image_ZHW.shape[2]
    near_Zhw = ndimage.binary_dilation(space_Zhw, disc(0.0, voxel_mm, factor))
    deep_Zhw = ndimage.binary_erosion(space_Zhw, disc(RIM_MM, voxel_mm, factor))
    return enlarge(deep_Zhw, factor, native) | (enlarge(near_Zhw, factor, native) & (image_ZHW < BONE_GREY))
