"""DICOM files to a scan: the head CT of a study in HU, in canonical orientation, with the way back to its pictures.

Nothing that identifies a person is read into a text: see dicom_headers.

Legend: N pictures of a series in order, Z slices, H rows, W columns, canonical.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import RLELossless

from data_prep.common.errors import InputError
from data_prep.sources.dicom.headers import Frame, read_header, refusing
from data_prep.sources.dicom.series import Series, choose_series, find_series
from data_prep.sources.dicom.stack import Stack, stack_series
from data_prep.volumes.volume import Volume

AIR_HU = -1000.0
LOWEST_HU = -1024.0
"""Below it lies no measurement: some scanners fill what is outside their circle with -2000 and less."""
TISSUE_HU = (-500.0, 2000.0)
"""A padding value in this range, as a careless export declares, would cut holes into the head: it is not heeded."""


@dataclass(frozen=True)
class Choice:
    """A series that was taken, before its pixels are read."""

    stack: Stack
    world: str
    """Frame of reference, an identifier: not to be printed."""
    summary: str
    """What was taken and what was corrected, on one line."""
    others: tuple[Series, ...]
    """The study's other series."""


@dataclass(frozen=True)
class DicomScan:
    """A series as a volume."""

    volume: Volume
    stack: Stack
    world: str
    """Frame of reference, an identifier: not to be printed."""
    summary: str
    """What was taken and what was corrected, on one line."""

    def to_pictures(self, mask_ZHW: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the volume on the pictures' own pixels, (N, H, W); at least half of a pixel counts."""
        values = self.stack.grid.to_source(mask_ZHW).astype(np.float32)
        return self.stack.to_pictures(values) >= np.float32(0.5)

    def to_volume(self, mask_NHW: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the pictures on the volume's voxels; the way back of `to_pictures`."""
        values = self.stack.to_volume(mask_NHW.astype(np.float32), outside=0.0) >= np.float32(0.5)
        return np.ascontiguousarray(self.stack.grid.to_canonical(values), dtype=np.bool_)


def choose(files: Sequence[Path], series: int | None = None) -> Choice:
    """See by headers alone which series of a study's CT files is the head CT, and how its slices lie.

    Args:
        files: CT files of one study.
        series: number of a series that a person chose; None chooses by the rules of `choose_series`.

    Raises:
        InputError: a header is damaged, no series fits, several do, or the one chosen is incomplete.
    """
    headers = [read_header(file) for file in files]
    every, place = find_series(headers), files[0].parent
    fault = next((header.fault for header in headers if header.fault), None)
    if fault and not every:
        raise InputError(fault)
    chosen = choose_series(every, series, place)
    stack = stack_series(chosen, place)
    summary = f"series {chosen} (of {len(every)})" if len(every) > 1 else f"series {chosen}"
    return Choice(
        stack=stack,
        world=chosen.world,
        summary="; ".join([summary, *stack.notes]),
        others=tuple(one for one in every if one.number != chosen.number),
    )


def open_files(files: Sequence[Path], series: int | None = None) -> DicomScan:
    """Read the head CT of a study's CT files.

    Raises:
        InputError: as `choose`, or the pixels are damaged.
    """
    choice = choose(files, series)
    stack = choice.stack
    values = stack.to_volume(_read_pictures(stack.frames), outside=AIR_HU)
    values_ZHW = np.ascontiguousarray(stack.grid.to_canonical(values), dtype=np.float32)
    return DicomScan(
        volume=Volume(values_ZHW, is_windowed=False, grid=stack.grid),
        stack=stack,
        world=choice.world,
        summary=choice.summary,
    )


def _read_pictures(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """Pictures in HU, float32 (N, H, W)."""
    values_NHW = np.empty((len(frames), *frames[0].size), np.float32)
    by_file: dict[Path, list[tuple[int, Frame]]] = defaultdict(list)
    for place, frame in enumerate(frames):
        by_file[frame.file].append((place, frame))
    for file, members in by_file.items():
        members.sort(key=lambda member: member[1].number)
        stored = _stored_values(file, [frame for _, frame in members])
        for (place, frame), stored_HW in zip(members, stored, strict=True):
            values_NHW[place] = _to_hu(frame, stored_HW)
    return values_NHW


def _stored_values(file: Path, frames: Sequence[Frame]) -> Iterable[NDArray[np.generic]]:
    remedy = "the pixels are missing, damaged or cannot be decoded; copy the file again, or export it uncompressed"
    with refusing(file, remedy):
        # pylibjpeg's RLE decoder, where it is installed, panics on damaged data beyond what Python catches.
        is_rle = read_file_meta_info(file).TransferSyntaxUID == RLELossless
        plugin = "pydicom" if is_rle else ""
        stored = list(iter_pixels(file, indices=[frame.number for frame in frames], decoding_plugin=plugin))
    for frame, stored_HW in zip(frames, stored, strict=True):
        if stored_HW.shape != frame.size:
            raise InputError(f"{file}: {remedy}")
    return stored


def _to_hu(frame: Frame, stored_HW: NDArray[np.generic]) -> NDArray[np.float32]:
    values_HW = stored_HW.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
    if frame.padding:
        low, high = (end * frame.slope + frame.intercept for end in frame.padding)
        if high < TISSUE_HU[0] or low > TISSUE_HU[1]:
            values_HW[(values_HW >= low) & (values_HW <= high)] = AIR_HU
    values_HW[values_HW < LOWEST_HU] = AIR_HU
    return values_HW
