"""Patients to predict on, whatever files they come in, and their masks in the grid of those files.

    pictures   <out>/<patient>/<slice>.png   0 and 255, under the slices' names
    NIfTI      <out>/<patient>.nii.gz        the scan's shape and affine
    DICOM      <out>/<patient>.dcm           a DICOM-SEG that refers to the series

Patients of DICOM files are numbered, for their folders' names may name a person; others keep their files' names.

Legend: Z slices, H rows, W columns, from the skull base upward.
"""

import gzip
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.cohort import voxel_ml
from data_prep.errors import InputError
from data_prep.files import replacing
from data_prep.sources.dicom import open_files
from data_prep.sources.dicom_seg import Author, write_seg
from data_prep.sources.dicom_studies import Study, find_studies, is_dicom
from data_prep.sources.nifti import SUFFIXES, find_nifti, is_nifti, read_nifti
from data_prep.sources.tree import Patterns, files_below
from data_prep.store import read_slices
from data_prep.volume import Volume
from data_prep.window import Window
from lcnn.predict import has_pictures, input_patients

MaskWriter = Callable[[Path, NDArray[np.bool_]], None]
"""Writes a mask (Z, H, W) below a folder."""


@dataclass(frozen=True)
class Scan:
    """A patient's scan, ready for the network."""

    image_ZHW: NDArray[np.uint8]
    slice_names: tuple[str, ...]
    voxel_ml: float | None
    """Volume of a voxel; None where the files tell no spacing."""
    write_mask: MaskWriter
    note: str | None = None
    """What was chosen and corrected, for people."""


@dataclass(frozen=True)
class Patient:
    """A patient before its scan is read."""

    name: str
    holds_hu: bool
    """Whether its values are HU, so that a window is needed."""
    open: Callable[[Window], Scan]


def find_patients(path: Path, series: int | None = None) -> list[Patient]:
    """The patients of an input: a slice, a volume, a study, or a folder of any of them.

    Args:
        path: file or folder.
        series: number of the DICOM series to take; None chooses by rule.

    Raises:
        InputError: there are none, two have one name, or a series is named where there is not one DICOM study.
    """
    studies = _studies(path)
    if series is not None and len(studies) != 1:
        raise InputError(f"--series {series}: is for one DICOM study, but {path} holds {len(studies)}; give its folder")
    patients = [_dicom(number, study, series) for number, study in enumerate(studies, start=1)]
    patients += [_nifti(name, file) for name, file in _volumes(path)]
    if not patients or (path.is_dir() and has_pictures(path)):
        patients += [_pictures(name, files) for name, files in input_patients(path)]
    name, count = Counter(patient.name for patient in patients).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: {count} patients by the name {name}; rename all but one")
    return patients


def _studies(path: Path) -> tuple[Study, ...]:
    return find_studies(path).complete() if path.exists() and is_dicom(path) else ()


def _volumes(path: Path) -> list[tuple[str, Path]]:
    if is_nifti(path) and path.is_file():
        return [(_stem(path), path)]
    if not path.is_dir() or not files_below(path, SUFFIXES):
        return []
    return [(case.name.replace("/", "_"), case.images[0]) for case in find_nifti(path, Patterns())]


def _stem(path: Path) -> str:
    return path.name[: path.name.lower().index(".nii")]


def _pictures(name: str, files: Sequence[Path]) -> Patient:
    stems = tuple(file.stem for file in files)

    def write(folder: Path, mask_ZHW: NDArray[np.bool_]) -> None:
        for stem, mask_HW in zip(stems, mask_ZHW, strict=True):
            with replacing(folder / name / f"{stem}.png") as partial:
                Image.fromarray(mask_HW.astype(np.uint8) * 255).save(partial, format="PNG")

    return Patient(name, holds_hu=False, open=lambda _: Scan(read_slices(files), stems, None, write))


def _nifti(name: str, file: Path) -> Patient:
    def open_(window: Window) -> Scan:
        volume = read_nifti(file)
        return _scan(volume, window, lambda folder, mask_ZHW: _write_nifti(folder / f"{name}.nii.gz", volume, mask_ZHW))

    return Patient(name, holds_hu=True, open=open_)


def _dicom(number: int, study: Study, series: int | None) -> Patient:
    name = f"patient_{number:04d}"

    def open_(window: Window) -> Scan:
        scan = open_files(study.files, series)
        author = Author("LCNN", _version())
        return _scan(
            scan.volume,
            window,
            lambda folder, mask_ZHW: write_seg(folder / f"{name}.dcm", scan, mask_ZHW, author),
            scan.summary,
        )

    return Patient(name, holds_hu=True, open=open_)


def _scan(volume: Volume, window: Window, write: MaskWriter, note: str | None = None) -> Scan:
    spacing = volume.spacing_mm
    names = tuple(f"{number:03d}" for number in range(1, len(volume.values_ZHW) + 1))
    return Scan(window.to_grey(volume.values_ZHW), names, voxel_ml(spacing) if spacing else None, write, note)


def _write_nifti(path: Path, volume: Volume, mask_ZHW: NDArray[np.bool_]) -> None:
    """In a new header, for the scan's may hold names in its free text."""
    if volume.grid is None:
        raise InputError(f"{path.name}: the scan has no grid to write a mask in")
    mask = nibabel.Nifti1Image(volume.grid.to_source(mask_ZHW).astype(np.uint8), volume.grid.affine)
    mask.header.set_xyzt_units("mm")
    with replacing(path) as partial:
        partial.write_bytes(_gzipped(mask))


def _gzipped(image: nibabel.Nifti1Image) -> bytes:
    # Without a time and a name inside, the same mask is the same file.
    return gzip.compress(image.to_bytes(), mtime=0)


def _version() -> str:
    try:
        return version("lcnn-search")
    except PackageNotFoundError:
        return "not installed"
