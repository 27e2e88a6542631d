"""Where the head is in the picture: a square box around it, for cropping.

Legend: Z slices, H rows, W columns of a patient's volume.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


class Box(NamedTuple):
    """A square region in pixels; it may reach beyond the picture, which counts as air there."""

    top: int
    left: int
    side: int


def whole_box(height: int, width: int) -> Box:
    """The smallest square that holds the whole picture, centred."""
    side = max(height, width)
    return Box((height - side) // 2, (width - side) // 2, side)


def head_box(image_ZHW: NDArray[np.uint8], *, threshold: int = 24, margin: float = 0.03) -> Box:
    """A square box around the head, one for all slices of a patient.

    The head is the largest region, over the volume's mean picture, of pixels brighter than ``threshold``
    (grey value of 255); an opening first cuts off the couch and the head holder, which are thin. A volume
    without such a region keeps the whole picture. ``margin`` is added on each side as a share of the side.
    """
    height, width = image_ZHW.shape[1:]
    # The mean over slices thins what is in few of them; blank end slices only lower it evenly.
    bright_HW = (image_ZHW >= threshold).mean(axis=0) > 0.15
    radius = max(1, round(min(height, width) / 100))
    opened_HW = ndimage.binary_opening(bright_HW, iterations=radius)
    labels_HW, count = ndimage.label(opened_HW)
    if count == 0:
        return whole_box(height, width)
    sizes = ndimage.sum_labels(opened_HW, labels_HW, index=np.arange(1, count + 1))
    rows, columns = ndimage.find_objects(labels_HW)[int(np.argmax(sizes))]
    side = max(rows.stop - rows.start, columns.stop - columns.start)
    side += 2 * max(1, round(margin * side))
    centre_row, centre_column = (rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2
    return Box(centre_row - side // 2, centre_column - side // 2, side)
