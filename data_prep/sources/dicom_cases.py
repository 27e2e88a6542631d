"""DICOM studies as patients to be imported: the head CT of each, with the DICOM-SEG that lies among its files."""

from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import InputError
from data_prep.sources.case import Case, Kind
from data_prep.sources.dicom import Study, find_studies, open_study
from data_prep.sources.dicom_headers import read_header
from data_prep.sources.dicom_seg import read_seg
from data_prep.sources.tree import Patterns
from data_prep.volume import Volume


def find_dicom(root: Path, patterns: Patterns) -> list[Case]:
    """The patients in a tree of DICOM files, named by their folders.

    Raises:
        InputError: a file is damaged, a patient has two studies or two masks, or patterns are given.
    """
    if patterns != Patterns():
        raise InputError(f"{root}: DICOM files are told apart by their headers; leave the patterns out")
    studies = find_studies(root)
    by_person: dict[int, list[Study]] = defaultdict(list)
    for study in studies:
        by_person[study.person].append(study)
    for several in by_person.values():
        if len(several) > 1:
            raise InputError(
                f"{several[0].place} and {several[1].place}: two studies of one patient, who could be trained on and "
                "tested; keep one of them"
            )
    names = [study.place.relative_to(root).as_posix() for study in studies]
    shared = {name for name, count in Counter(names).items() if count > 1}
    return [
        Case(f"{name}/{number}" if name in shared else name, study.files, _only_mask(study), Kind.DICOM)
        for number, (name, study) in enumerate(zip(names, studies, strict=True), start=1)
    ]


def read_dicom_case(
    case: Case, segments: Collection[int] | None, ignored: Collection[int] = ()
) -> tuple[Volume, NDArray[np.uint8] | None]:
    """A study's head CT, and its mask as `Label`, (Z, H, W), where it brings one; segments as in `read_seg`.

    Raises:
        InputError: as `open_study` and `read_seg`.
    """
    headers = tuple(header for header in map(read_header, case.images) if header)
    if not headers:
        raise InputError(f"{case.images[0]}: is no DICOM file any more; restore it")
    scan = open_study(Study(headers, person=1))
    if not isinstance(case.mask, Path):
        return scan.volume, None
    return scan.volume, read_seg(case.mask, scan, sorted(segments) if segments else None, ignored)


def _only_mask(study: Study) -> Path | None:
    if len(study.masks) > 1:
        raise InputError(f"{study.masks[0]} and {study.masks[1]}: two masks of one study; keep one of them")
    return next(iter(study.masks), None)
