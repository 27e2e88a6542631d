"""A patient's slices as the network sees them, and its answer back on the patient's own grid.

The store compiles slices so and prediction brings them so: one way for both, or a model would be tested on other
pictures than it was trained on.

Legend: Z slices of a patient, K windows, H rows, W columns (native), S side the network sees.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.head import Box, head_box, whole_box
from data_prep.picture import PictureConfig


@dataclass(frozen=True)
class Framing:
    """The way from a patient's own slices to the network's and back."""

    box: Box
    """Square crop in native pixels."""
    native: tuple[int, int]
    """Rows and columns of the patient's own slices."""
    side: int
    """Pixels of the network's pictures."""

    def images(self, image_ZHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Slices (Z, S, S) for the network."""
        return np.stack([to_stored(image_HW, self.box, self.side) for image_HW in image_ZHW])

    def windows(self, image_ZKHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Slices in all their windows (Z, K, S, S) for the network."""
        return np.stack([self.images(image_ZHW) for image_ZHW in image_ZKHW.swapaxes(0, 1)], axis=1)

    def shares(self, mask_ZHW: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Share of each of the network's pixels that lies within a mask, 0..255, (Z, S, S)."""
        return np.stack([to_stored(mask_HW * np.uint8(255), self.box, self.side) for mask_HW in mask_ZHW])

    def to_native(self, values_ZSS: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps of values (Z, H, W) on the patient's own grid; what the network did not see is 0."""
        return np.stack([to_native(values_SS, self.box, self.native) for values_SS in values_ZSS])


def frame(image_ZHW: NDArray[np.uint8], picture: PictureConfig) -> Framing:
    """How a patient's slices are brought to the network."""
    height, width = image_ZHW.shape[1:]
    box = head_box(image_ZHW) if picture.crop == "head" else whole_box(height, width)
    return Framing(box, (height, width), picture.image_size)


def to_stored(slice_HW: NDArray[np.uint8], box: Box, side: int) -> NDArray[np.uint8]:
    """Crop a native slice to ``box`` and resize it to ``side`` pixels, averaging over the area."""
    top, left, size = box
    height, width = slice_HW.shape
    canvas = np.zeros((size, size), dtype=np.uint8)
    rows = slice(max(top, 0), min(top + size, height))
    columns = slice(max(left, 0), min(left + size, width))
    canvas[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = slice_HW[rows, columns]
    return np.asarray(Image.fromarray(canvas).resize((side, side), Image.Resampling.BILINEAR))


def to_native(values_SS: NDArray[np.float32], box: Box, native: tuple[int, int]) -> NDArray[np.float32]:
    """Undo `to_stored` for a map of values; what lies outside the crop is 0."""
    top, left, size = box
    height, width = native
    square = np.asarray(Image.fromarray(values_SS).resize((size, size), Image.Resampling.BILINEAR))
    out = np.zeros((height, width), dtype=np.float32)
    rows = slice(max(top, 0), min(top + size, height))
    columns = slice(max(left, 0), min(left + size, width))
    out[rows, columns] = square[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return out
