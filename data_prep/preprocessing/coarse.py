"""A volume at a coarse resolution, where shapes are found quickly, and masks back at the full one.

Legend: Z slices, H rows, W columns (native); h rows, w columns, coarse.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from data_prep.preprocessing.head import head_box

Spacing = tuple[float, float, float]
Mask = NDArray[np.bool_]

COARSE_MM = 2.0
"""Pixel size at which heads and skulls are looked for: a skull is 3 to 10 mm thick."""
HEAD_LENGTH_MM = 190.0
"""Assumed longer side of the head in the picture, where no spacing is known."""
SPAN_MM = 150.0
"""Assumed height of all slices together, where no spacing is known and they are not too few for it."""
THICK_MM = 10.0
"""Assumed distance of slices at most."""
IN_PLANE = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]
"""Neighbours within a slice that share a side."""


def voxel_size(image_ZHW: NDArray[np.uint8], spacing_mm: Spacing | None) -> Spacing:
    """Distances in mm between voxel centres along Z, H and W: the known ones, or those of a head of usual size."""
    if spacing_mm:
        return spacing_mm
    pixel_mm = HEAD_LENGTH_MM / head_box(image_ZHW, margin=0.0).side
    return min(SPAN_MM / len(image_ZHW), THICK_MM), pixel_mm, pixel_mm


def shrink_factor(voxel_mm: Spacing) -> int:
    """How many pixels, squared, are averaged into one of about `COARSE_MM`."""
    return max(1, round(COARSE_MM / min(voxel_mm[1:])))


def shrink(values_ZHW: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Mean grey values (Z, h, w) of squares of ``factor`` pixels; squares at the far edges may be cut."""
    return np.stack([np.asarray(Image.fromarray(values_HW).reduce(factor)) for values_HW in values_ZHW])


def enlarge(mask_Zhw: Mask, factor: int, native: tuple[int, int]) -> Mask:
    """A coarse mask at the native pixels (rows, columns)."""
    return mask_Zhw.repeat(factor, axis=1).repeat(factor, axis=2)[:, : native[0], : native[1]]


def disc(radius_mm: float, voxel_mm: Spacing, factor: int) -> Mask:
    """A flat structuring element (1, h, w) in the plane of the slices; its radius is at least a coarse pixel."""
    reach = [max(1, round(radius_mm / (mm * factor))) for mm in voxel_mm[1:]]
    rows, columns = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    return ((rows / (reach[0] + 0.25)) ** 2 + (columns / (reach[1] + 0.25)) ** 2 <= 1.0)[None]


def framed(mask_Zhw: Mask, element: Mask) -> Mask:
    """The mask in a frame of nothing, as wide as the element, for morphology that is to stop at the picture's edge."""
    return np.pad(mask_Zhw, [(0, 0), *((side, side) for side in element.shape[1:])])


def unframed(mask_Zhw: Mask, element: Mask) -> Mask:
    """The mask without the frame that `framed` gave it."""
    rows, columns = element.shape[1:]
    return mask_Zhw[:, rows:-rows, columns:-columns]


def filled(mask_ZHW: Mask) -> Mask:
    """The mask with what it encloses, slice by slice."""
    # Labels of the complement: many times as fast as scipy's binary_fill_holes.
    labels_ZHW, count = ndimage.label(~mask_ZHW, structure=IN_PLANE)
    edges = (labels_ZHW[:, 0], labels_ZHW[:, -1], labels_ZHW[:, :, 0], labels_ZHW[:, :, -1])
    outside = np.zeros(count + 1, dtype=np.bool_)
    outside[np.concatenate([edge.ravel() for edge in edges])] = True
    outside[0] = False
    return ~outside[labels_ZHW]


def largest_part(mask_ZHW: Mask) -> Mask:
    """The largest connected part of a mask in 3D; empty where the mask is."""
    labels_ZHW, count = ndimage.label(mask_ZHW)
    if count == 0:
        return mask_ZHW
    sizes = np.bincount(labels_ZHW.ravel())
    sizes[0] = 0
    return np.asarray(labels_ZHW == np.argmax(sizes))
