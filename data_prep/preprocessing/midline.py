"""Midline alignment in 3D: find the plane in which a head mirrors itself, and turn the volume so that it is upright.

The plane maximises the volume's mirror symmetry, as in Ardekani et al., "Automatic detection of the mid-sagittal plane
in 3-D brain images" (IEEE Trans. Med. Imaging 16, 1997), measured by capped absolute differences in place of their
correlation, so that a lesion, which has no mirror image, counts for little (as Prima et al., IEEE Trans. Med. Imaging
21, 2002, with trimmed squares). Mirror symmetry says nothing of the pitch, which stays as it is.

Legend: Z slices, H rows, W columns of a patient's volume; P points of a head. Points are (z, y, x) in mm from the
volume's centre: z upward, y to the back, x to the picture's right.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from data_prep.preprocessing.coarse import Mask, Spacing, shrink, shrink_factor
from data_prep.preprocessing.head import Box

Float = NDArray[np.float64]

MAX_YAW_DEG = 45.0
MAX_ROLL_DEG = 20.0
LEAST_HEIGHT_MM = 60.0
"""Height of a head that tells its roll; lower ones are taken for upright."""
SEARCH_MM = 10.0
"""Resolution at which all poses are tried."""
REFINE_MM = 4.0
"""Resolution at which the best are refined."""
YAW_STEP_DEG = 7.5
ROLL_STEP_DEG = 5.0
SHIFTS_MM = (-8.0, 0.0, 8.0)
"""Shifts that are tried, from the one in which the plane goes through the head's centroid."""
POINTS = 10_000
"""Points of the head that are compared with their mirror images, at most."""
STARTS = 2
"""Poses that are refined."""
CAP = 0.25
"""Largest difference between a point and its mirror image that counts, in grey values of 0..1."""


@dataclass(frozen=True)
class MirrorPlane:
    """How a head lies: its mirror plane, from the vertical plane in the middle of the picture."""

    yaw_deg: float = 0.0
    """In the slices; positive turns the nose to the picture's right."""
    roll_deg: float = 0.0
    """About the front-back axis; positive moves the vertex to the picture's right."""
    shift_mm: float = 0.0
    """Distance of the plane from the volume's centre, along its normal; positive is to the picture's right."""

    def rotation(self) -> Float:
        """(3, 3), from an upright head to this one, axes (z, y, x)."""
        (ca, sa), (cr, sr) = (
            (math.cos(math.radians(deg)), math.sin(math.radians(deg))) for deg in (self.yaw_deg, self.roll_deg)
        )
        about_z = np.array([[1, 0, 0], [0, ca, sa], [0, -sa, ca]])
        about_y = np.array([[cr, 0, -sr], [0, 1, 0], [sr, 0, cr]])
        return about_z @ about_y

    def normal(self) -> Float:
        """Unit vector (3,), to the picture's right where the head is upright."""
        return self.rotation()[:, 2]

    def mirrored(self, points_P3: Float) -> Float:
        """Points on the other side of the plane."""
        normal = self.normal()
        return points_P3 - 2 * (points_P3 @ normal - self.shift_mm)[:, None] * normal


@dataclass(frozen=True)
class _Head:
    """A head at a low resolution."""

    unit_ZHW: NDArray[np.float32]
    """Grey values of 0..1; 0 outside the head."""
    voxel_mm: Float
    origin_mm: Float
    """Where its first voxel lies."""
    points_P3: Float
    unit_P: NDArray[np.float32]

    def asymmetry(self, plane: MirrorPlane) -> float:
        """Mean capped difference between the head's points and their mirror images.

        Mirror images above or below the slices are unknown and left out; beside them is air.
        """
        index_P3 = (plane.mirrored(self.points_P3) - self.origin_mm) / self.voxel_mm
        last = len(self.unit_ZHW) - 1
        known_P = np.abs(index_P3[:, 0] - last / 2) <= last / 2 + 0.5
        index_P3 = index_P3[known_P]
        np.clip(index_P3[:, 0], 0, last, out=index_P3[:, 0])
        mirrored_P = ndimage.map_coordinates(self.unit_ZHW, index_P3.T, order=1, mode="grid-constant")
        difference_P = np.minimum(np.abs(self.unit_P[known_P] - mirrored_P), CAP)
        return float(difference_P.mean()) if len(difference_P) else CAP


def _low_head(image_ZHW: NDArray[np.uint8], head_ZHW: Mask, voxel_mm: Spacing, target_mm: float) -> _Head:
    """The head at about ``target_mm`` a voxel."""
    factor = shrink_factor(voxel_mm, target_mm)
    layers = max(1, min(round(target_mm / voxel_mm[0]), len(image_ZHW)))
    starts = np.arange(0, len(image_ZHW), layers)
    counts = np.diff([*starts, len(image_ZHW)])[:, None, None]

    def low(values_ZHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        small_ZHW = shrink(values_ZHW, factor).astype(np.float32) / 255
        return np.asarray(np.add.reduceat(small_ZHW, starts) / counts, dtype=np.float32)

    unit_ZHW = low(np.where(head_ZHW, image_ZHW, np.uint8(0)))
    rng = np.random.default_rng(0)
    where_P3 = np.argwhere(low(head_ZHW * np.uint8(255)) > 0.5).astype(float)
    where_P3 = rng.permutation(where_P3)[:POINTS]
    # Points between the voxels: on them, a pose that maps voxels to voxels would be told by its lack of blur.
    where_P3 += rng.uniform(-0.5, 0.5, where_P3.shape)
    size = np.array([layers, factor, factor])
    origin_mm = (size - np.array(image_ZHW.shape)) / 2 * np.array(voxel_mm)
    low_mm = size * np.array(voxel_mm)
    unit_P = ndimage.map_coordinates(unit_ZHW, where_P3.T, order=1, mode="nearest")
    return _Head(unit_ZHW, low_mm, origin_mm, where_P3 * low_mm + origin_mm, unit_P)


def find_mirror_plane(image_ZHW: NDArray[np.uint8], head_ZHW: Mask, voxel_mm: Spacing) -> MirrorPlane:
    """The plane in which the head mirrors itself best; the picture's own middle, where there is no head.

    Args:
        image_ZHW: grey values.
        head_ZHW: where the head is (`couch.head_mask`).
        voxel_mm: distances between voxel centres.
    """
    rough = _low_head(image_ZHW, head_ZHW, voxel_mm, SEARCH_MM)
    if not len(rough.points_P3):
        return MirrorPlane()
    height_mm = np.count_nonzero(head_ZHW.any(axis=(1, 2))) * voxel_mm[0]
    max_roll_deg = MAX_ROLL_DEG if height_mm >= LEAST_HEIGHT_MM else 0.0
    tried = sorted(_candidates(rough.points_P3.mean(axis=0), max_roll_deg), key=rough.asymmetry)
    fine = _low_head(image_ZHW, head_ZHW, voxel_mm, REFINE_MM)
    return min((_refined(fine, start, max_roll_deg) for start in tried[:STARTS]), key=fine.asymmetry)


def mirror_asymmetry(image_ZHW: NDArray[np.uint8], head_ZHW: Mask, voxel_mm: Spacing, plane: MirrorPlane) -> float:
    """What `find_mirror_plane` makes least: the mean capped difference between both sides, in grey values of 0..1."""
    return _low_head(image_ZHW, head_ZHW, voxel_mm, REFINE_MM).asymmetry(plane)


def _candidates(centroid_mm: Float, max_roll_deg: float) -> list[MirrorPlane]:
    """Planes on a grid of poses, through the centroid and beside it."""
    yaws = np.arange(-MAX_YAW_DEG, MAX_YAW_DEG + 1, YAW_STEP_DEG)
    rolls = np.arange(-max_roll_deg, max_roll_deg + 1, ROLL_STEP_DEG)
    poses = [MirrorPlane(float(yaw), float(roll)) for yaw in yaws for roll in rolls]
    return [replace(pose, shift_mm=float(centroid_mm @ pose.normal()) + mm) for pose in poses for mm in SHIFTS_MM]


def _refined(head: _Head, start: MirrorPlane, max_roll_deg: float) -> MirrorPlane:
    """The best plane near ``start``, by Nelder and Mead's simplex."""
    at = np.array([start.yaw_deg, start.roll_deg, start.shift_mm])
    found = optimize.minimize(
        lambda pose: head.asymmetry(MirrorPlane(*pose)),
        at,
        method="Nelder-Mead",
        bounds=[(-MAX_YAW_DEG, MAX_YAW_DEG), (-max_roll_deg, max_roll_deg), (None, None)],
        options={"initial_simplex": at + 3.0 * np.eye(4, 3, -1), "xatol": 0.05, "fatol": 1e-5, "maxfev": 120},
    )
    return MirrorPlane(*map(float, found.x))


@dataclass(frozen=True)
class Alignment:
    """The rigid way from a patient's own grid to that of the upright head, which has the same size, and back.

    The volume is turned about its centre and moved, so that the plane stands upright in the middle of the picture.
    Linear interpolation; what was out of view is 0.
    """

    plane: MirrorPlane
    voxel_mm: Spacing
    """Distances between the voxel centres of the patient's own grid."""

    def upright(self, values_ZHW: NDArray[np.generic], box: Box) -> NDArray[np.generic]:
        """The values in a square of the upright head's pictures, (Z, side, side), of those on the patient's grid."""
        size = len(values_ZHW), box.side, box.side
        # A point p of the upright head lies at rotation @ p + shift * normal.
        rotation, move_mm = self.plane.rotation(), self.plane.shift_mm * self.plane.normal()
        return _resampled(values_ZHW, self._steps(rotation, move_mm, values_ZHW.shape), (0, box.top, box.left), size)

    def native(self, values_ZBB: NDArray[np.generic], box: Box, size: tuple[int, int]) -> NDArray[np.generic]:
        """The way back: values on the patient's grid of ``size`` rows and columns."""
        shape = len(values_ZBB), *size
        back = self.plane.rotation().T
        matrix, offset = self._steps(back, -self.plane.shift_mm * (back @ self.plane.normal()), shape)
        return _resampled(values_ZBB, (matrix, offset - (0, box.top, box.left)), (0, 0, 0), shape)

    def _steps(self, turn: Float, move_mm: Float, shape: tuple[int, ...]) -> tuple[Float, Float]:
        """Matrix and offset of the same map in steps of the grid, from its first voxel, as scipy takes them."""
        mm = np.array(self.voxel_mm)
        centre = (np.array(shape) - 1) / 2
        matrix = turn * mm / mm[:, None]
        return matrix, centre + move_mm / mm - matrix @ centre


def _resampled(
    values: NDArray[np.generic], steps: tuple[Float, Float], start: tuple[int, int, int], shape: tuple[int, ...]
) -> NDArray[np.generic]:
    """Values at the voxels from ``start`` on of a grid of this shape, each mapped by ``steps`` to where it is read."""
    matrix, offset = steps
    offset = offset + matrix @ start
    out = np.zeros(shape, dtype=values.dtype)
    # Most of a mask and much of a picture is 0, and stays so wherever it goes.
    low, high = _reach(values, matrix, offset, shape)
    if (low < high).all():
        part = tuple(slice(first, stop) for first, stop in zip(low, high, strict=True))
        size = tuple(high - low)
        out[part] = ndimage.affine_transform(
            values, matrix, offset + matrix @ low, output_shape=size, order=1, mode="grid-constant"
        )
    return out


def _reach(
    values: NDArray[np.generic], matrix: Float, offset: Float, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last voxel (exclusive) along each axis that can differ from 0 when ``values`` are resampled."""
    found = ndimage.find_objects((values != 0).view(np.uint8))
    if not found:
        return np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    corners_83 = np.array(list(itertools.product(*((part.start - 1, part.stop) for part in found[0]))))
    reached_83 = (corners_83 - offset) @ np.linalg.inv(matrix).T
    low = np.floor(reached_83.min(axis=0)).astype(np.int64)
    high = np.ceil(reached_83.max(axis=0)).astype(np.int64) + 1
    return np.clip(low, 0, shape), np.clip(high, 0, shape)
