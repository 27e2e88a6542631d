"""DICOM studies to be imported: the head CT of each, with its mask, a DICOM-SEG or a NIfTI file."""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.common.errors import InputError
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.dicom.masks import find_nifti_masks, pair_masks, read_drawn_mask
from data_prep.sources.dicom.seg import read_seg
from data_prep.sources.dicom.series import listed
from data_prep.sources.dicom.studies import DicomStudy, find_studies
from data_prep.sources.dicom.study import choose, open_files
from data_prep.sources.formats.nifti import is_nifti
from data_prep.sources.naming.tree import Patterns
from data_prep.volumes.volume import Volume


@dataclass(frozen=True)
class DicomCases:
    """The studies in a tree of DICOM files."""

    cases: list[Case]
    lost: tuple[str, ...]
    """A line for each damaged file of which nobody can say whose it is."""


def find_dicom(root: Path, patterns: Patterns, jobs: int) -> DicomCases:
    """The studies in a tree of DICOM files, named by their folders, or, where several share one, by their first files.

    Each study is a scan of its own; those of one PatientID name the same patient.

    Raises:
        InputError: there is none, a mask's study is not clear, or a pattern for images is given.
    """
    if patterns.image:
        raise InputError(f"{root}: DICOM pictures are found by their headers; leave --image-pattern out")
    studies = find_studies(root, jobs)
    masks = _masks(root, patterns, studies.found)
    names = [_folder(study).relative_to(root).as_posix() for study in studies.found]
    shared = {name for name, count in Counter(names).items() if count > 1}
    cases = [
        Case(
            name=f"{name}/{study.files[0].name}" if name in shared else name,
            image=study.files,
            mask=own or None,
            kind=SourceFormat.DICOM,
            identity=study.visit,
            patient=study.person,
        )
        for name, study, own in zip(names, studies.found, masks, strict=True)
    ]
    return DicomCases(cases, studies.lost)


def _folder(study: DicomStudy) -> Path:
    """The folder of all of a study's files."""
    return Path(os.path.commonpath([file.parent for file in study.files]))


def _masks(root: Path, patterns: Patterns, studies: Sequence[DicomStudy]) -> list[tuple[Path, ...]]:
    """The masks of each study."""
    found = [[*study.masks] for study in studies]
    folders = [{file.parent for file in study.files} for study in studies]
    for mask, number in pair_masks(root, find_nifti_masks(root, patterns), folders).items():
        found[number].append(mask)
    return [tuple(masks) for masks in found]


def read_dicom_case(
    case: Case, lesion: Collection[int] | None, ignored: Collection[int] = ()
) -> tuple[Volume, NDArray[np.uint8] | None, str]:
    """A patient's head CT, its mask as `Label`, (Z, H, W), where there is one, and what was taken and corrected.

    Args:
        case: the patient.
        lesion: segments, or values of a NIfTI mask, that are lesion; None takes the only one.
        ignored: those that are neither learnt nor scored.

    Raises:
        InputError: as `open_files`, `read_seg` and `read_drawn_mask`, or there are two masks.
    """
    scan = open_files(case.images, case.series)
    mask = _only_mask(case)
    if mask is None:
        return scan.volume, None, scan.summary
    if is_nifti(mask):
        return scan.volume, read_drawn_mask(mask, scan, lesion, ignored), scan.summary
    return scan.volume, read_seg(mask, scan, sorted(lesion) if lesion else None, ignored), scan.summary


def _only_mask(case: Case) -> Path | None:
    masks = [mask for mask in case.masks if mask] if case.mask else []
    if len(masks) > 1:
        raise InputError(f"{masks[0]} and {masks[1]}: two masks of one study; keep one of them")
    return next(iter(masks), None)


def preview_dicom(case: Case) -> str:
    """What would be taken of a patient and corrected, by headers alone, and which series there are beside it.

    Raises:
        InputError: as `choose`.
    """
    choice = choose(case.images, case.series)
    return f"{choice.summary}; not taken: {listed(choice.others)}" if choice.others else choice.summary
