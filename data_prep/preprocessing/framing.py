"""A patient's slices as the network sees them, and its answer back on the patient's own grid.

The store compiles slices so and prediction brings them so: one way for both, or a model would be tested on other
pictures than it was trained on.

Legend: Z slices of a patient, K windows, H rows, W columns (native), S side the network sees.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.preprocessing.coarse import Mask, Spacing, voxel_size
from data_prep.preprocessing.couch import head_mask
from data_prep.preprocessing.head import Box, head_box, whole_box
from data_prep.preprocessing.picture import PictureConfig
from data_prep.preprocessing.skull import intracranial_mask


@dataclass(frozen=True)
class Framing:
    """The way from a patient's own slices to the network's and back."""

    box: Box
    """Square crop in native pixels."""
    native: tuple[int, int]
    """Rows and columns of the patient's own slices."""
    side: int
    """Pixels of the network's pictures."""
    kept_ZHW: Mask | None = None
    """What does not become air; None keeps all."""

    def images(self, image_ZHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Slices (Z, S, S) for the network."""
        return self._stored(image_ZHW if self.kept_ZHW is None else image_ZHW * self.kept_ZHW)

    def windows(self, image_ZKHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Slices in all their windows (Z, K, S, S) for the network."""
        return np.stack([self.images(image_ZHW) for image_ZHW in image_ZKHW.swapaxes(0, 1)], axis=1)

    def shares(self, mask_ZHW: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Share of each of the network's pixels that lies within a mask, 0..255, (Z, S, S)."""
        return self._stored(mask_ZHW * np.uint8(255))

    def to_native(self, values_ZSS: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps of values (Z, H, W) on the patient's own grid; what the network did not see is 0."""
        return np.stack([to_native(values_SS, self.box, self.native) for values_SS in values_ZSS])

    def _stored(self, grey_ZHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([to_stored(grey_HW, self.box, self.side) for grey_HW in grey_ZHW])


def frame(image_ZHW: NDArray[np.uint8], picture: PictureConfig, spacing_mm: Spacing | None = None) -> Framing:
    """How a patient's slices are brought to the network.

    Args:
        image_ZHW: 8-bit grey slices ordered from the skull base upward.
        picture: what is done to them.
        spacing_mm: distances between voxel centres along Z, H and W; None assumes a head of usual size where they are
            needed (`voxel_size`).
    """
    native = image_ZHW.shape[1], image_ZHW.shape[2]
    if not (picture.remove_couch or picture.strip_skull):
        return Framing(_box(image_ZHW, picture), native, picture.image_size)
    voxel_mm = voxel_size(image_ZHW, spacing_mm)
    head_ZHW = head_mask(image_ZHW, voxel_mm)
    kept_ZHW = intracranial_mask(image_ZHW, head_ZHW, voxel_mm) if picture.strip_skull else head_ZHW
    return Framing(_box(image_ZHW * kept_ZHW, picture), native, picture.image_size, kept_ZHW)


def _box(image_ZHW: NDArray[np.uint8], picture: PictureConfig) -> Box:
    return head_box(image_ZHW) if picture.crop == "head" else whole_box(*image_ZHW.shape[1:])


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
