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

from data_prep.errors import InputError
from data_prep.sources.dicom_headers import Frame, Header, Kind, files_below, has_mark, read_header, refusing
from data_prep.sources.dicom_series import Series, choose_series, find_series
from data_prep.sources.dicom_stack import Stack, stack_series
from data_prep.volume import Volume

AIR_HU = -1000.0
LOWEST_HU = -1024.0
"""Below it lies no measurement: some scanners fill what is outside their circle with -2000 and less."""
TISSUE_HU = (-500.0, 2000.0)
"""A padding value in this range, as a careless export declares, would cut holes into the head: it is not heeded."""


@dataclass(frozen=True)
class Study:
    """A patient's study as found in a folder."""

    headers: tuple[Header, ...]
    person: int
    """Number of the patient; studies of one patient share it."""

    @property
    def place(self) -> Path:
        """The folder of its first file, for messages."""
        return self.headers[0].file.parent

    @property
    def files(self) -> tuple[Path, ...]:
        """All its files."""
        return tuple(header.file for header in self.headers)

    @property
    def series(self) -> tuple[Series, ...]:
        """Its CT series."""
        return find_series(self.headers)

    @property
    def masks(self) -> tuple[Path, ...]:
        """Its DICOM-SEG files."""
        return tuple(header.file for header in self.headers if header.kind is Kind.MASK)


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


def is_dicom(path: Path) -> bool:
    """Whether a file, or a file in a folder or below it, is DICOM."""
    return any(has_mark(file) for file in files_below(path))


def find_studies(path: Path) -> list[Study]:
    """The studies in a folder and its folders, told apart by their headers and not by where files lie.

    Raises:
        InputError: a DICOM file is damaged, or there is none with a CT.
    """
    by_study: dict[str, list[Header]] = defaultdict(list)
    for header in filter(None, map(read_header, files_below(path))):
        by_study[header.study].append(header)
    found = [headers for headers in by_study.values() if any(header.kind is Kind.CT for header in headers)]
    if not found:
        raise InputError(f"{path}: no CT pictures in DICOM files; give the folder of a CT study")
    people: dict[str, int] = {}
    studies = []
    for headers in found:
        person = headers[0].person or headers[0].study
        studies.append(Study(tuple(headers), people.setdefault(person, len(people) + 1)))
    return studies


def open_study(study: Study, series: int | None = None) -> DicomScan:
    """Read the head CT of a study.

    Args:
        study: one of `find_studies`.
        series: number of a series that a person chose; None chooses by the rules of `choose_series`.

    Raises:
        InputError: no series fits, several do, or the chosen one is damaged or incomplete.
    """
    every = study.series
    fault = next((header.fault for header in study.headers if header.fault), None)
    if fault and not every:
        raise InputError(fault)
    chosen = choose_series(every, series, study.place)
    stack = stack_series(chosen, study.place)
    values = stack.to_volume(_read_pictures(stack.frames), outside=AIR_HU)
    values_ZHW = np.ascontiguousarray(stack.grid.to_canonical(values), dtype=np.float32)
    summary = f"series {chosen} (of {len(every)})" if len(every) > 1 else f"series {chosen}"
    return DicomScan(
        volume=Volume(values_ZHW, is_windowed=False, grid=stack.grid),
        stack=stack,
        world=chosen.world,
        summary="; ".join([summary, *stack.notes]),
    )


def open_dicom(path: Path, series: int | None = None) -> DicomScan:
    """Read the head CT of a folder that holds one study.

    Raises:
        InputError: as `open_study`, or the folder holds several studies.
    """
    studies = find_studies(path)
    if len(studies) > 1:
        raise InputError(f"{path}: {len(studies)} studies; give the folder of one")
    return open_study(studies[0], series)


def read_dicom(path: Path) -> Volume:
    """The head CT of a folder that holds one study, in HU.

    Raises:
        InputError: as `open_dicom`.
    """
    return open_dicom(path).volume


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
