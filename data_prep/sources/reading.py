"""A patient's scan and lesion, whatever format they come in."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.common.errors import InputError
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.dicom.cases import preview_dicom, read_dicom_case
from data_prep.sources.formats import aisd
from data_prep.sources.formats.nifti import read_nifti, read_nifti_mask
from data_prep.sources.formats.npz import has_mask, read_npz, read_npz_mask
from data_prep.sources.formats.pictures import read_picture_files, read_picture_masks
from data_prep.volumes.volume import Volume


@dataclass(frozen=True)
class ReadOptions:
    """What files do not say of themselves."""

    hu_offset: int | None = None
    """What was added to the HU: None refuses pictures of more than 8 bits, and takes NIfTI and npz as they are."""
    lesion_labels: frozenset[int] | None = None
    """Values of a mask that are lesion; None takes the one beside 0, and for AISD those of its authors."""
    ignored_labels: frozenset[int] | None = None
    """Values that are neither learnt nor scored; None takes none, and for AISD the one of its authors."""


@dataclass(frozen=True)
class Reading:
    """What was read of a patient."""

    volume: Volume
    label_ZHW: NDArray[np.uint8]
    """Its mask as `Label`; background without one."""
    taken: str | None
    """What was taken of several and what was corrected, on one line that names nobody; None where all is taken as
    it is."""


@dataclass(frozen=True)
class _Meaning:
    """What values of a mask mean; all others are background."""

    lesion: frozenset[int] | None
    ignored: frozenset[int]


def read_case(case: Case, options: ReadOptions) -> Reading:
    """A patient's scan and its mask.

    Raises:
        InputError: a file cannot be read, or the mask does not fit the scan.
    """
    meaning = _meaning(case.kind, options)
    taken = None
    if case.kind == SourceFormat.DICOM:
        volume, label_ZHW, taken = read_dicom_case(case, meaning.lesion, meaning.ignored)
    else:
        volume = _read_scan(case, options)
        label_ZHW = _read_mask(case, volume, meaning)
    if label_ZHW is None:
        label_ZHW = np.zeros(volume.values_ZHW.shape, dtype=np.uint8)
    return Reading(volume, label_ZHW, taken)


def _meaning(kind: SourceFormat, options: ReadOptions) -> _Meaning:
    lesion, ignored = options.lesion_labels, options.ignored_labels
    if kind == SourceFormat.AISD:
        lesion = lesion or aisd.LESION - (ignored or frozenset())
        ignored = aisd.IGNORED - lesion if ignored is None else ignored
    return _Meaning(lesion, ignored or frozenset())


def preview_case(case: Case) -> str | None:
    """What would be taken of a patient and corrected, by headers alone; None where all is taken as it is.

    Raises:
        InputError: a header cannot be read, or says what is refused.
    """
    return preview_dicom(case) if case.kind == SourceFormat.DICOM else None


def lacking_mask(case: Case) -> Path | None:
    """The first of a patient's image files that has no mask, beside it or in it; None where all have one.

    Raises:
        InputError: an archive cannot be read.
    """
    if case.kind == SourceFormat.DICOM:
        return None if case.mask else case.images[0]
    for image, mask in zip(case.images, case.masks, strict=True):
        if mask is None and not (case.kind == SourceFormat.NPZ and case.mask is None and has_mask(image)):
            return image
    return None


def _read_scan(case: Case, options: ReadOptions) -> Volume:
    if case.kind == SourceFormat.NIFTI:
        return read_nifti(case.images[0], options.hu_offset)
    if case.kind == SourceFormat.NPZ:
        return read_npz(case.images, options.hu_offset)
    return read_picture_files(case.images, options.hu_offset)


def _read_mask(case: Case, volume: Volume, meaning: _Meaning) -> NDArray[np.uint8] | None:
    if case.mask is None and lacking_mask(case):
        return None
    shape_ZHW = volume.values_ZHW.shape
    if case.kind in (SourceFormat.AISD, SourceFormat.PICTURES):
        return read_picture_masks(case.masks, shape_ZHW, meaning.lesion, meaning.ignored)
    if case.kind == SourceFormat.NPZ:
        return read_npz_mask(_archives(case), shape_ZHW, meaning.lesion, meaning.ignored)
    if volume.grid is None or not isinstance(case.mask, Path):
        raise InputError(f"{case.images[0]}: its mask cannot be placed; give it as a file on the scan's grid")
    return read_nifti_mask(case.mask, volume.grid, meaning.lesion, meaning.ignored)


def _archives(case: Case) -> list[Path]:
    """The archives that hold a patient's mask; a slice without one is refused, for its siblings have theirs."""
    if case.mask is None:
        return list(case.images)
    for image, mask in zip(case.images, case.masks, strict=True):
        if mask is None:
            raise InputError(f"{image}: no mask beside it, as other slices of the patient have; add one")
    return [mask for mask in case.masks if mask]
