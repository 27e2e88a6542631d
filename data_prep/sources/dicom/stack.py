"""Pictures of a DICOM series in order, as one right-angled volume, and the way back to the pictures.

Slices are ordered by their position along their normal. A tilted gantry moves each slice within its plane against the
one before: the slices are moved back, by linear interpolation, into a field that holds all of them. Uneven distances
are brought to even ones by linear interpolation between slices, where nothing is missing; see `_even_heights`.

Legend: N pictures of the series in order, Z slices, H rows, W columns of the volume (not turned: as the pictures lie).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from highdicom.spatial import get_normal_vector
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.common.errors import InputError
from data_prep.sources.dicom.headers import Frame
from data_prep.sources.dicom.series import SAME_PLACE_MM, Series
from data_prep.volumes.volume import Grid

EVEN = 0.05
"""Of the distance between slices: a slice that lies this near to its place in an even row counts as in it."""
UNEVEN = 0.25
"""Of the median distance: uneven distances up to this are interpolated; any more may be a missing slice."""
RUN = 3
"""Distances alike in a row that make a part of a scan, where it was made in two thicknesses."""
RUN_RATIO = 2.5
STEP_PX = 1.0
"""Shift within the plane, over the whole series, from which slices are moved back."""
LARGEST_TILT_DEG = 35.0
"""Gantries tilt up to 30 degrees."""
SLICES_MM = (0.1, 20.0)
WORLD = np.diag([-1.0, -1.0, 1.0])
"""DICOM's world to NIfTI's."""
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """A series in order."""

    frames: tuple[Frame, ...]
    places_N: Float
    """Where the pictures lie among the volume's slices, as indices; not whole where distances were uneven."""
    shifts_N2: Float
    """Row and column of the volume on which a picture's first pixel lies; all 0 where nothing was moved."""
    grid: Grid
    """Of the volume; its axes are slices, rows, columns."""
    notes: tuple[str, ...]
    """What was corrected, for people."""

    @property
    def is_moved(self) -> bool:
        """Whether slices are moved within their plane."""
        return bool(self.shifts_N2.any())

    @property
    def is_spread(self) -> bool:
        """Whether the volume's slices lie between the pictures."""
        return not np.array_equal(self.places_N, np.arange(self.grid.shape[0]))

    def to_volume(self, pictures_NHW: NDArray[np.float32], outside: float) -> NDArray[np.float32]:
        """Pictures as the volume; ``outside`` stands where no picture reaches."""
        if self.is_moved:
            _, height, width = self.grid.shape
            pictures_NHW = _moved(pictures_NHW, -self.shifts_N2, (height, width), outside)
        if not self.is_spread:
            return pictures_NHW
        wanted_Z = np.interp(np.arange(self.grid.shape[0]), self.places_N, np.arange(len(self.frames)))
        return _between(pictures_NHW, wanted_Z)

    def to_pictures(self, values_ZHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """The volume's values at the pixels of the pictures: the way back of `to_volume`."""
        if self.is_spread:
            values_ZHW = _between(values_ZHW, self.places_N)
        if not self.is_moved:
            return values_ZHW
        return _moved(values_ZHW, self.shifts_N2, self.frames[0].size, outside=0.0)


def stack_series(series: Series, place: Path) -> Stack:
    """Put a series in order.

    Raises:
        InputError: two pictures at one place, a missing slice, a single slice, or positions that no scanner makes.
    """
    if len(series.frames) == 1:
        raise InputError(f"{series.frames[0].file}: one slice makes no volume; give the whole series")
    normal, across, down = _axes(series.frames[0])
    frames = tuple(sorted(series.frames, key=lambda frame: float(np.dot(frame.position_mm, normal))))
    positions_N3 = np.array([frame.position_mm for frame in frames])
    heights_N = positions_N3 @ normal
    _refuse_doubles(frames, heights_N)
    even_Z, uneven = _even_heights(frames, heights_N)
    inplane_N2 = positions_N3 @ np.stack([down, across], axis=1)
    shifts_N2, tilt = _shifts(inplane_N2, heights_N, frames[0], place)
    rows_mm, columns_mm = frames[0].spacing_mm
    start = inplane_N2.min(axis=0) if shifts_N2.any() else inplane_N2[0]
    margin = np.ceil(shifts_N2.max(axis=0)).astype(int)
    height, width = (side + int(extra) for side, extra in zip(frames[0].size, margin, strict=True))
    step_mm = float(even_Z[1] - even_Z[0])
    affine = np.eye(4)
    affine[:3, :3] = WORLD @ np.stack([normal * step_mm, down * rows_mm, across * columns_mm], axis=1)
    affine[:3, 3] = WORLD @ (normal * even_Z[0] + down * start[0] + across * start[1])
    places_N = (heights_N - even_Z[0]) / step_mm if uneven else np.arange(len(frames), dtype=float)
    notes = tuple(note for note in (tilt, uneven) if note)
    return Stack(frames, places_N, shifts_N2, Grid((len(even_Z), height, width), affine), notes)


def picture_grids(frames: Sequence[Frame]) -> tuple[Grid, ...]:
    """Where a series' pictures lie, as a grid of slices, rows and columns: the grids on which masks are drawn.

    The first is the pictures' own, which a tilted gantry shears. Programs that know no shear pile the pictures straight
    up, as far apart as their planes, or as their first pixels (ITK's series reader): these are the other two. Uneven
    distances are taken as even.

    Args:
        frames: in order, as in a `Stack`.
    """
    normal, across, down = _axes(frames[0])
    rows_mm, columns_mm = frames[0].spacing_mm
    first, last = (np.array(frame.position_mm) for frame in (frames[0], frames[-1]))
    step = (last - first) / (len(frames) - 1)
    grids = []
    for along in (step, normal * (step @ normal), normal * np.linalg.norm(step)):
        affine = np.eye(4)
        affine[:3, :3] = WORLD @ np.stack([along, down * rows_mm, across * columns_mm], axis=1)
        affine[:3, 3] = WORLD @ first
        grids.append(Grid((len(frames), *frames[0].size), affine))
    return tuple(grids)


def _axes(frame: Frame) -> tuple[Float, Float, Float]:
    """Unit vectors at right angles: from slice to slice, along a row, down a column."""
    across = np.array(frame.orientation[:3])
    across /= np.linalg.norm(across)
    normal = get_normal_vector(frame.orientation)
    normal /= np.linalg.norm(normal)
    return normal, across, np.cross(normal, across)


def _refuse_doubles(frames: tuple[Frame, ...], heights_N: Float) -> None:
    gaps = np.diff(heights_N)
    nearest = int(gaps.argmin())
    if gaps[nearest] < SAME_PLACE_MM:
        first, second = _named(frames[nearest]), _named(frames[nearest + 1])
        raise InputError(
            f"{first} and {second} lie at one place, as two reconstructions or phases in one series do; keep one "
            f"of the two for each of the {int((gaps < SAME_PLACE_MM).sum())} places"
        )


def _named(frame: Frame) -> str:
    return f"{frame.file}, frame {frame.number + 1}," if frame.number else str(frame.file)


def _even_heights(frames: tuple[Frame, ...], heights_N: Float) -> tuple[Float, str | None]:
    """Even heights along the normal for a series, and a note where they are not the pictures' own.

    Pictures that lie within 5% of an even row are taken as they are. Distances that differ from their median by at most
    a quarter, and scans in two thicknesses (two runs of three or more even distances), are interpolated, the latter to
    the smaller distance. All else may be a missing slice.
    """
    gaps = np.diff(heights_N)
    if not (SLICES_MM[0] <= gaps.min() and np.median(gaps) <= SLICES_MM[1]):
        raise InputError(
            f"{_named(frames[int(gaps.argmin())])}: slices {gaps.min():.2f} to {gaps.max():.2f} mm apart are no head "
            "CT; export the series again"
        )
    even = np.linspace(heights_N[0], heights_N[-1], len(heights_N))
    if np.abs(heights_N - even).max() <= EVEN * (even[1] - even[0]):
        return even, None
    usual = float(np.median(gaps))
    if np.abs(gaps - usual).max() <= UNEVEN * usual:
        step = usual
    elif _has_two_runs(gaps):
        step = float(gaps.min())
    else:
        _refuse_gap(frames, gaps, usual)
    count = max(2, round((heights_N[-1] - heights_N[0]) / step) + 1)
    note = f"slices {gaps.min():.1f} to {gaps.max():.1f} mm apart interpolated to {count}"
    return np.linspace(heights_N[0], heights_N[-1], count), note


def _has_two_runs(gaps: Float) -> bool:
    jump = int(np.abs(np.diff(gaps)).argmax()) + 1
    runs = gaps[:jump], gaps[jump:]
    steady = all(len(run) >= RUN and np.ptp(run) <= EVEN * run.min() for run in runs)
    return bool(steady and gaps.max() <= RUN_RATIO * gaps.min())


def _refuse_gap(frames: tuple[Frame, ...], gaps: Float, usual: float) -> None:
    widest = int(np.abs(gaps - usual).argmax())
    cause = "a slice is missing there: add it" if gaps[widest] > usual else "one of the two is too many: remove it"
    raise InputError(
        f"{_named(frames[widest])} and {_named(frames[widest + 1])} lie {gaps[widest]:.1f} mm apart, the other slices "
        f"{usual:.1f} mm; {cause}, or export the series again"
    )


def _shifts(inplane_N2: Float, heights_N: Float, first: Frame, place: Path) -> tuple[Float, str | None]:
    """How far pictures are moved within their plane, in pixels, and a note where they are."""
    shifts_N2 = (inplane_N2 - inplane_N2.min(axis=0)) / first.spacing_mm
    if np.ptp(shifts_N2, axis=0).max() <= STEP_PX:
        return np.zeros_like(shifts_N2), None
    travel = float(np.linalg.norm(np.ptp(inplane_N2, axis=0)))
    tilt_deg = math.degrees(math.atan2(travel, float(np.ptp(heights_N))))
    if tilt_deg > LARGEST_TILT_DEG:
        raise InputError(
            f"{place}: the slices' positions leave their normal by {tilt_deg:.0f} degrees, more than a gantry tilts; "
            "export the series again"
        )
    return shifts_N2, f"gantry tilt of {tilt_deg:.1f} degrees corrected"


def _moved(
    slices_NHW: NDArray[np.float32], offsets_N2: Float, size: tuple[int, int], outside: float
) -> NDArray[np.float32]:
    """Slices at each pixel of a field of ``size`` plus an offset a slice, linear between pixels."""
    out = np.empty((len(slices_NHW), *size), np.float32)
    for slice_HW, offset, moved_HW in zip(slices_NHW, offsets_N2, out, strict=True):
        ndimage.affine_transform(
            slice_HW, np.ones(2), offset=offset, output_shape=size, output=moved_HW, order=1, cval=outside
        )
    return out


def _between(slices_NHW: NDArray[np.float32], wanted_Z: Float) -> NDArray[np.float32]:
    """Values at fractional indices along the first axis, linear between slices."""
    low_Z = np.clip(np.floor(wanted_Z).astype(int), 0, len(slices_NHW) - 2)
    share_Z = np.clip(wanted_Z - low_Z, 0, 1).astype(np.float32)
    out = np.empty((len(wanted_Z), *slices_NHW.shape[1:]), np.float32)
    for z, (low, share) in enumerate(zip(low_Z, share_Z, strict=True)):
        out[z] = slices_NHW[low] * (1 - share) + slices_NHW[low + 1] * share
    return out
