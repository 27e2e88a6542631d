"""NIfTI volumes and masks, read by nibabel; which mask belongs to which scan is decided by names.

    imagesTr/p1_0000.nii.gz  labelsTr/p1.nii.gz         or p1/ct.nii.gz  p1/lesion.nii.gz
    p1.nii.gz  p1_mask.nii.gz                            or BIDS: sub-01/ct/sub-01_ct.nii.gz, masks in derivatives/
    sub-01/ses-1/..., sub-01/ses-2/...                   two scans of one patient

A mask on another grid than its scan is refused: to resample it would move the lesion's border without a word.

Legend: Z slices, H rows, W columns, canonical.
"""

import logging
import math
import warnings
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger as nibabel_log
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from data_prep.common.errors import InputError, first_line
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.labels import labels_of
from data_prep.sources.naming.pairing import paired
from data_prep.sources.naming.tree import Found, Patterns, files_below, listed, session, sort_out, subject
from data_prep.volumes.checks import AXIAL_MM, check_finite, check_hu, check_shape
from data_prep.volumes.volume import Grid, Volume

SUFFIXES = (".nii", ".nii.gz")
SHEAR = 0.01
"""Cosine of the angle between two axes, from which a grid counts as sheared: 0.6 degrees off a right angle."""
LARGEST_SHEAR = 0.6
"""The same where shear is allowed: 37 degrees, more than any gantry tilts."""
GRID_TOLERANCE = 0.25
"""Distance between the corners of two grids that are one, in voxels of the smallest side."""
NO_SCAN = "a mask whose scan is not found; name it as the scan, or say --image-pattern and --mask-pattern"
UNREADABLE = (
    ImageFileError, HeaderDataError, OSError, EOFError, ValueError, TypeError, LookupError, OverflowError, MemoryError,
    zlib.error,
)  # fmt: skip


def is_nifti(path: Path) -> bool:
    """Whether a file's name is that of a NIfTI file."""
    return path.name.lower().endswith(SUFFIXES)


def read_nifti(path: Path, hu_offset: int | None = None) -> Volume:
    """A scan in HU, scaled as its header says, in canonical orientation.

    Args:
        path: the file.
        hu_offset: what was added to its HU, where the header does not say; None where nothing was.

    Raises:
        InputError: it cannot be read, is no volume, its axes are unknown or sheared, or its values are no HU.
    """
    values, grid = _read(path)
    values -= np.float32(hu_offset or 0)
    doubts = (check_hu(path, values, hu_offset), place_doubt(path))
    canonical_ZHW = np.ascontiguousarray(grid.to_canonical(values), dtype=np.float32)
    return Volume(canonical_ZHW, is_windowed=False, grid=grid, doubt="; ".join(filter(None, doubts)) or None)


def read_nifti_mask(
    path: Path, grid: Grid, lesion: Collection[int] | None, ignored: Collection[int] = ()
) -> NDArray[np.uint8]:
    """A scan's mask as `Label`, (Z, H, W).

    Args:
        path: the mask.
        grid: where the scan's voxels lie.
        lesion, ignored: values that are so, as in `labels_of`.

    Raises:
        InputError: it cannot be read, or lies on another grid.
    """
    values, own = _read(path, is_mask=True)
    check_same_grid(path, own, grid)
    return labels_of(path, own.to_canonical(values), lesion, ignored)


def check_same_grid(path: Path, mask: Grid, scan: Grid) -> None:
    """See that a mask's voxels are those of its scan; the order of the axes may differ.

    Raises:
        InputError: they are not.
    """
    difference = grid_difference(mask, scan)
    if difference:
        raise InputError(f"{path}: {difference}; resample the mask onto the scan's grid")


def grid_difference(mask: Grid, scan: Grid) -> str | None:
    """In what a mask's voxels are not those of its scan, in words; None where they are the same."""
    shapes = [grid.canonical_shape for grid in (mask, scan)]
    if shapes[0] != shapes[1]:
        return " but ".join(" x ".join(map(str, shape)) for shape in shapes) + " voxels in its scan"
    apart = _corners_apart(mask, scan)
    return f"lies up to {apart:.1f} mm off its scan" if apart > GRID_TOLERANCE * min(scan.spacing_mm) else None


def _corners_apart(one: Grid, other: Grid) -> float:
    """The largest distance between the corners of two grids of one canonical shape, in mm."""
    corners = np.array([[*corner, 1] for corner in product(*((0, side - 1) for side in one.canonical_shape))])
    return float(np.linalg.norm((corners @ (one.canonical_affine - other.canonical_affine).T)[:, :3], axis=1).max())


def read_labels(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """A mask's values and where its voxels lie; its axes may be sheared, as the pictures of a tilted gantry are.

    Raises:
        InputError: it cannot be read, or is no volume.
    """
    return _read(path, may_shear=True, is_mask=True)


def read_grid(path: Path) -> Grid:
    """Where a file's voxels lie, by its header alone.

    Raises:
        InputError: as `read_nifti`, as far as the header says.
    """
    return _open(path)[1]


def _read(path: Path, *, may_shear: bool = False, is_mask: bool = False) -> tuple[NDArray[np.float32], Grid]:
    image, grid = _open(path, may_shear=may_shear, is_mask=is_mask)
    try:
        with _quiet():  # about casts and slopes; the check below judges them by their result
            values = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged")).reshape(grid.shape)
    except UNREADABLE as error:
        raise InputError(_unreadable(path, error)) from error
    check_finite(path, values, is_mask=is_mask)
    return values, grid


@contextmanager
def _quiet() -> Iterator[None]:
    """nibabel and numpy tell what they make of a damaged header on standard error; our refusal is the one line."""
    level = nibabel_log.level
    nibabel_log.setLevel(logging.CRITICAL + 1)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        nibabel_log.setLevel(level)


def _open(path: Path, *, may_shear: bool = False, is_mask: bool = False) -> tuple[Any, Grid]:
    try:
        with _quiet():
            image = nibabel.load(path)
            shape, affine = tuple(int(side) for side in image.shape), np.asarray(image.affine, dtype=np.float64)
            has_place = not isinstance(image, nibabel.Nifti1Image) or _says_place(image.header)
            is_number = np.issubdtype(image.get_data_dtype(), np.number) and not _is_complex(image)
    except UNREADABLE as error:
        raise InputError(_unreadable(path, error)) from error
    if not is_number:
        wanted = "a mask; save it as whole numbers" if is_mask else "a scan; export it in Hounsfield units"
        raise InputError(f"{path}: colours or complex numbers, not {wanted}")
    if len(shape) > 3 and set(shape[3:]) == {1}:
        shape = shape[:3]
    if len(shape) != 3:
        raise InputError(
            f"{path}: {len(shape)}-dimensional ({' x '.join(map(str, shape))}); save the one volume that is "
            f"the {'mask' if is_mask else 'head CT'}"
        )
    if not has_place:
        raise InputError(
            f"{path}: its header does not say how the head lies (qform and sform are 0); convert it again from DICOM"
        )
    _check_axes(path, affine, most=LARGEST_SHEAR if may_shear else SHEAR)
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    check_shape(path, grid.canonical_shape)
    return image, grid


def place_doubt(path: Path) -> str | None:
    """That a header says twice where the voxels lie, and not the same; None where it does not.

    Where both qform and sform are set, sform is used (nifti.nimh.nih.gov, nifti1.h, "method 3"), as nibabel does.

    Raises:
        InputError: as `read_grid`.
    """
    image, grid = _open(path, may_shear=True)
    if not isinstance(image, nibabel.Nifti1Image) or 0 in (image.header["qform_code"], image.header["sform_code"]):
        return None
    with _quiet():
        by_qform = Grid(grid.shape, np.asarray(image.header.get_qform(), dtype=np.float64))
    with np.errstate(all="ignore"):
        ratio = abs(np.linalg.det(by_qform.affine[:3, :3]) / np.linalg.det(grid.affine[:3, :3]))
    if not _corners_apart(grid, by_qform) > GRID_TOLERANCE * min(grid.spacing_mm):
        return None
    shown, other = (" x ".join(f"{mm:.3g}" for mm in each.spacing_mm) for each in (grid, by_qform))
    volumes = "the same" if math.isclose(ratio, 1, rel_tol=0.005) else f"{ratio:.3g} times as large"
    return (
        f"its sform ({shown} mm) and its qform ({other} mm) disagree on where the voxels lie; sform is used, by qform "
        f"volumes would be {volumes}"
    )


def _says_place(header: Any) -> bool:
    return bool(int(header["qform_code"]) or int(header["sform_code"]))


def _is_complex(image: Any) -> bool:
    return bool(np.issubdtype(image.get_data_dtype(), np.complexfloating))


def _check_axes(path: Path, affine: NDArray[np.float64], most: float) -> None:
    with np.errstate(over="ignore"):  # what is too long to square is too long for a voxel
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() < AXIAL_MM[0] or lengths.max() > AXIAL_MM[1]:
        shown = " x ".join(f"{length:.3g}" for length in lengths)
        raise InputError(f"{path}: voxels of {shown} mm by its header; convert it again from DICOM")
    axes = affine[:3, :3] / lengths
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine > most:
        degrees = 90 - math.degrees(math.acos(min(cosine, 1.0)))
        raise InputError(
            f"{path}: its axes are sheared by {degrees:.1f} degrees, as by a tilted gantry; resample it to right "
            "angles, or import its DICOM files"
        )


def _unreadable(path: Path, error: BaseException) -> str:
    reason = first_line(error).replace(str(path), path.name)
    return f"{path}: not a readable NIfTI file ({reason}); replace it"


def find_nifti(root: Path, patterns: Patterns) -> list[Case]:
    """The patients in a tree of NIfTI files.

    Raises:
        InputError: two scans or masks for a patient, or a mask without its scan.
    """
    images, masks = sort_out(root, files_below(root, SUFFIXES), patterns)
    if masks and not images:
        raise InputError(f"{root}: {len(masks)} masks ({listed(masks)}) and no scan; say which by --image-pattern")
    by_folder = all(image.folders and not subject(image.relative) for image in images) and _one_each(images, masks)
    several = _of_several_sessions(images, masks)
    scans = _by_patient(images, by_folder, several)
    for files in scans.values():
        if len(files) > 1:
            raise InputError(
                f"{root}: {len(files)} scans of one patient ({listed(files)}); choose by --image-pattern, such as "
                f"'*{files[0].relative.name[-12:]}'"
            )
    labels = _with_scans({name: files[0] for name, files in scans.items()}, _by_patient(masks, by_folder, several))
    for files in labels.values():
        if len(files) > 1:
            raise InputError(f"{root}: {len(files)} masks of one patient ({listed(files)}); choose by --mask-pattern")
    return [
        Case(
            name,
            files[0].path,
            labels[name][0].path if name in labels else None,
            SourceFormat.NIFTI,
            identity=_visit(files[0]),
        )
        for name, files in scans.items()
    ]


def _visit(file: Found) -> str | None:
    """The subject and the session in a BIDS name; None where it has not both."""
    visit = session(file.relative)
    return f"{subject(file.relative)}/{visit}" if visit else None


def _of_several_sessions(images: Sequence[Found], masks: Sequence[Found]) -> frozenset[str]:
    """The subjects of BIDS of whom several sessions are named, each of which is a scan of its own."""
    scanned, named = _sessions(images), _sessions(masks)
    return frozenset(
        name for name, known in scanned.items() if len(known) > 1 or len((known | named[name]) - {None}) > 1
    )


def _sessions(files: Sequence[Found]) -> defaultdict[str, set[str | None]]:
    """The sessions that files name, by subject; None where a file names none."""
    sessions: defaultdict[str, set[str | None]] = defaultdict(set)
    for file in files:
        if name := subject(file.relative):
            sessions[name].add(session(file.relative))
    return sessions


def _with_scans(scans: dict[str, Found], labels: dict[str, list[Found]]) -> dict[str, list[Found]]:
    """The masks by the names of their scans."""
    named = [(name, mask) for name, files in labels.items() for mask in files]
    by_scan: dict[str, list[Found]] = defaultdict(list)
    for name, mask in paired(scans, named, least=1, missing=NO_SCAN):
        by_scan[name].append(mask)
    return by_scan


def _one_each(images: Sequence[Found], masks: Sequence[Found]) -> bool:
    """Whether every folder is a patient's own: one scan, and at most one mask."""
    return all(
        max((len(files) for files in _by_patient(group, by_folder=True).values()), default=0) <= 1
        for group in (images, masks)
    )


def _by_patient(
    files: Sequence[Found], by_folder: bool, several: frozenset[str] = frozenset()
) -> dict[str, list[Found]]:
    """Files by patient; by session those of the patients who have ``several``."""
    patients: dict[str, list[Found]] = defaultdict(list)
    for file in files:
        parts = file.folders if by_folder or not file.stem_words else (*file.folders, file.stem_words)
        name = subject(file.relative)
        visit = _visit(file) if name in several else None
        patients[visit or name or "/".join(parts)].append(file)
    return patients
