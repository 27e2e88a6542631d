"""A patient's scan as an array in one orientation, whatever file it came from, and the way back to that file's grid.

Canonical orientation, as radiologists look at it: slices from the skull base upward, rows from the front of the head
to its back, columns from the patient's right to the left.

Legend: Z slices, H rows, W columns, canonical; a source's own array has the axes of its file.
"""

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

CANONICAL = ("S", "P", "L")
"""Directions in which the indices Z, H and W grow: superior, posterior, left."""


@dataclass(frozen=True)
class Grid:
    """Where a source's voxels lie in the patient."""

    shape: tuple[int, int, int]
    """Of the source's array."""
    affine: NDArray[np.float64]
    """(4, 4), from the source's indices to mm in NIfTI's world: right, anterior, superior are positive."""

    @property
    def orientation(self) -> NDArray[np.float64]:
        """nibabel's transform from the source's axes to the canonical ones."""
        return ornt_transform(io_orientation(self.affine), axcodes2ornt(CANONICAL))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distances between voxel centres along Z, H and W."""
        lengths = np.linalg.norm(self.canonical_affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    @property
    def canonical_affine(self) -> NDArray[np.float64]:
        """From canonical indices to mm in the same world."""
        affine: NDArray[np.float64] = self.affine @ inv_ornt_aff(self.orientation, self.shape)
        return affine

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """Voxels along Z, H and W."""
        z, h, w = (self.shape[axis] for axis in np.argsort(self.orientation[:, 0]))
        return z, h, w

    def to_canonical(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """The source's array with its axes turned; nothing is interpolated."""
        turned: NDArray[np.generic] = apply_orientation(values, self.orientation)
        return turned

    def to_source(self, values_ZHW: NDArray[np.generic]) -> NDArray[np.generic]:
        """The way back of `to_canonical`."""
        back = ornt_transform(axcodes2ornt(CANONICAL), io_orientation(self.affine))
        turned: NDArray[np.generic] = apply_orientation(values_ZHW, back)
        return turned


@dataclass(frozen=True)
class Volume:
    """A scan in canonical orientation."""

    values_ZHW: NDArray[np.float32]
    """HU, or grey values 0..255 of slices that were windowed before they came here."""
    is_windowed: bool
    grid: Grid | None
    """None where the source says nothing of where its voxels lie, as PNG files do."""
    doubt: str | None = None
    """What its values leave open, for a person to see to."""

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distances between voxel centres along Z, H and W; None where they are not known."""
        return self.grid.spacing_mm if self.grid else None
