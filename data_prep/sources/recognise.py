"""What a source is: its format, its patients, and what its headers say before anything is read."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_prep.cohort.layout import SLICE_SUFFIXES, natural_key
from data_prep.common.errors import InputError
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.dicom import headers as dicom_headers
from data_prep.sources.dicom.cases import find_dicom
from data_prep.sources.dicom.studies import is_dicom
from data_prep.sources.formats import nifti, npz
from data_prep.sources.formats.aisd import as_aisd, is_aisd
from data_prep.sources.formats.nifti import find_nifti, read_grid
from data_prep.sources.formats.npz import find_npz
from data_prep.sources.formats.pictures import find_pictures
from data_prep.sources.naming.tree import Patterns, files_below, session, sort_out, subject
from data_prep.sources.reading import lacking_mask

FORMATS: dict[SourceFormat, Sequence[str]] = {
    SourceFormat.NIFTI: nifti.SUFFIXES,
    SourceFormat.NPZ: npz.SUFFIXES,
    SourceFormat.PICTURES: SLICE_SUFFIXES,
    SourceFormat.DICOM: dicom_headers.SUFFIXES,
}
"""The file endings of each format."""
FINDERS: dict[SourceFormat, Callable[[Path, Patterns], list[Case]]] = {
    SourceFormat.NIFTI: find_nifti,
    SourceFormat.NPZ: find_npz,
    SourceFormat.PICTURES: find_pictures,
}
"""Who finds patients by the names of files."""


@dataclass(frozen=True)
class Source:
    """A recognised source."""

    kind: SourceFormat
    cases: tuple[Case, ...]
    """In natural order of their names."""
    without_mask: tuple[Case, ...]
    """Those that bring no mask, or not one for every slice."""
    lost: tuple[str, ...] = ()
    """A line for each damaged file of which nobody can say whose it is."""


def recognise(root: Path, patterns: Patterns, kind: SourceFormat | None = None, jobs: int = 1) -> Source:
    """See what lies below ``root``.

    Args:
        root: the folder.
        patterns: names that tell scans and masks apart, where names are not of the usual kind.
        kind: the format, where files of several lie there.
        jobs: processes that may read headers.

    Raises:
        InputError: nothing that can be imported, several formats, or names that do not pair scans and masks.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    chosen = kind or _only_kind(root, patterns)
    found, lost = _find(chosen, root, patterns, jobs)
    cases = sorted((_with_patient(case, root) for case in found), key=lambda case: natural_key(case.name))
    if not cases:
        raise InputError(f"{root}: no scans of {chosen}; say which files are scans by --image-pattern")
    if chosen == SourceFormat.PICTURES and is_aisd(cases):
        chosen, cases = SourceFormat.AISD, as_aisd(cases)
    return Source(chosen, tuple(cases), tuple(case for case in cases if lacking_mask(case)), lost)


def _find(kind: SourceFormat, root: Path, patterns: Patterns, jobs: int) -> tuple[list[Case], tuple[str, ...]]:
    if kind == SourceFormat.DICOM:
        found = find_dicom(root, patterns, jobs)
        return found.cases, found.lost
    return FINDERS[kind](root, patterns), ()


def _with_patient(case: Case, root: Path) -> Case:
    """A scan with its patient where its names are those of a session in BIDS; DICOM files name theirs themselves."""
    relative = PurePosixPath(case.images[0].relative_to(root).as_posix())
    if case.kind == SourceFormat.DICOM or session(relative) is None:
        return case
    return replace(case, patient=subject(relative))


def _only_kind(root: Path, patterns: Patterns) -> SourceFormat:
    present = {kind: len(files_below(root, suffixes)) for kind, suffixes in FORMATS.items()}
    kinds = [kind for kind, count in present.items() if count]
    if {*kinds} <= {SourceFormat.DICOM, SourceFormat.NIFTI} and _are_masks(root, patterns) and is_dicom(root):
        return SourceFormat.DICOM  # whose files often have no ending
    if not kinds:
        endings = " ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
        raise InputError(f"{root}: nothing to import; looked for {endings}")
    if len(kinds) > 1:
        counts = ", ".join(f"{present[kind]} files of {kind}" for kind in kinds)
        raise InputError(f"{root}: several formats ({counts}); choose one by --format")
    return kinds[0]


def _are_masks(root: Path, patterns: Patterns) -> bool:
    """Whether all NIfTI files are masks, as they lie beside DICOM series."""
    return not sort_out(root, files_below(root, nifti.SUFFIXES), patterns)[0]


def spacings(source: Source) -> set[tuple[float, float, float]]:
    """The distances between voxel centres that the headers of a source tell, in mm, to the hundredth.

    A header that cannot be read is passed over, for the import of its patient says so.
    """
    if source.kind != SourceFormat.NIFTI:
        return set()
    found = set()
    for case in source.cases:
        with contextlib.suppress(InputError):
            slice_mm, row_mm, column_mm = read_grid(case.images[0]).spacing_mm
            found.add((round(slice_mm, 2), round(row_mm, 2), round(column_mm, 2)))
    return found
