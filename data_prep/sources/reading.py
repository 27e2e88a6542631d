"""A patient's scan and lesion, whatever format they come in."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import InputError
from data_prep.sources import aisd
from data_prep.sources.case import Case, Kind
from data_prep.sources.dicom_cases import read_dicom_case
from data_prep.sources.nifti import read_nifti, read_nifti_mask
from data_prep.sources.npz import has_mask, read_npz, read_npz_mask
from data_prep.sources.pictures import read_picture_files, read_picture_masks
from data_prep.volume import Volume


@dataclass(frozen=True)
class ReadOptions:
    """What files do not say of themselves."""

    hu_offset: int | None = None
    """What was added to the HU: None refuses pictures of more than 8 bits, and takes NIfTI and npz as they are."""
    lesion_labels: frozenset[int] | None = None
    """Values of a mask that are lesion; None takes the one beside 0, and for AISD those of its authors."""


def read_case(case: Case, options: ReadOptions) -> tuple[Volume, NDArray[np.bool_]]:
    """A patient's scan and lesion, both (Z, H, W); without a mask, there is no lesion.

    Raises:
        InputError: a file cannot be read, or the mask does not fit the scan.
    """
    if case.kind == Kind.DICOM:
        volume, lesion_ZHW = read_dicom_case(case, options.lesion_labels)
    else:
        volume = _read_scan(case, options)
        lesion_ZHW = _read_lesion(case, volume, options)
    return volume, np.zeros(volume.values_ZHW.shape, dtype=np.bool_) if lesion_ZHW is None else lesion_ZHW


def lacking_mask(case: Case) -> Path | None:
    """The first of a patient's image files that has no mask, beside it or in it; None where all have one.

    Raises:
        InputError: an archive cannot be read.
    """
    for image, mask in zip(case.images, case.masks, strict=True):
        if mask is None and not (case.kind == Kind.NPZ and case.mask is None and has_mask(image)):
            return image
    return None


def _read_scan(case: Case, options: ReadOptions) -> Volume:
    if case.kind == Kind.NIFTI:
        return read_nifti(case.images[0], options.hu_offset)
    if case.kind == Kind.NPZ:
        return read_npz(case.images, options.hu_offset)
    return read_picture_files(case.images, options.hu_offset)


def _read_lesion(case: Case, volume: Volume, options: ReadOptions) -> NDArray[np.bool_] | None:
    if case.mask is None and lacking_mask(case):
        return None
    shape_ZHW, lesion = volume.values_ZHW.shape, options.lesion_labels
    if case.kind == Kind.AISD:
        return read_picture_masks(case.masks, shape_ZHW, lesion or aisd.LESION)
    if case.kind == Kind.PICTURES:
        return read_picture_masks(case.masks, shape_ZHW, lesion)
    if case.kind == Kind.NPZ:
        return read_npz_mask(_archives(case), shape_ZHW, lesion)
    if volume.grid is None or not isinstance(case.mask, Path):
        raise InputError(f"{case.images[0]}: its mask cannot be placed; give it as a file on the scan's grid")
    return read_nifti_mask(case.mask, volume.grid, lesion)


def _archives(case: Case) -> list[Path]:
    """The archives that hold a patient's mask; a slice without one is refused, for its siblings have theirs."""
    if case.mask is None:
        return list(case.images)
    for image, mask in zip(case.images, case.masks, strict=True):
        if mask is None:
            raise InputError(f"{image}: no mask beside it, as other slices of the patient have; add one")
    return [mask for mask in case.masks if mask]
