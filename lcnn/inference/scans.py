"""Patients to predict on, whatever files they come in, and their masks in the grid of those files.

    pictures   <out>/<patient>/<slice>.png   0 and 255, under the slices' names
    NIfTI      <out>/<patient>.nii.gz        the scan's shape and affine
    DICOM      <out>/<patient>.dcm           a DICOM-SEG that refers to the series

Pictures in the folder of a cohort are taken as its ``cohort.json`` says: its spacing, and their windows.
Patients of DICOM files are numbered, for their folders' names may name a person; others keep their files' names.

Legend: Z slices, from the skull base upward, K windows, H rows, W columns.
"""

import gzip
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.cohort.layout import MANIFEST, Spacing, read_manifest, voxel_ml
from data_prep.cohort.pixels import GREY, Pixels, pixels_of
from data_prep.cohort.store import read_windows
from data_prep.common.errors import InputError
from data_prep.common.files import replacing, write_png
from data_prep.intensity.window import WINDOWS, Window, in_words
from data_prep.sources.dicom.seg import Author, write_seg
from data_prep.sources.dicom.studies import DicomStudy, find_studies, is_dicom
from data_prep.sources.dicom.study import open_files
from data_prep.sources.formats.nifti import SUFFIXES, find_nifti, is_nifti, read_nifti
from data_prep.sources.formats.pictures import read_picture_files
from data_prep.sources.naming.tree import Patterns, files_below, sort_out
from data_prep.volumes.volume import Volume
from lcnn.inference.predict import has_pictures, input_patients

MaskWriter = Callable[[Path, NDArray[np.bool_]], None]
"""Writes a mask (Z, H, W) below a folder."""
USUAL = Pixels((WINDOWS["brain"],), hu_offset=0)
"""How HU are seen where nobody names a window: neither a person, nor the files, nor the model."""
COHORT_DEPTH = 3
"""Folders between a slice and its cohort: the patient's, the images', the cohort's."""


@dataclass(frozen=True)
class InputOverrides:
    """What a person says of files that do not say it themselves."""

    series: int | None = None
    """Number of the DICOM series to take; None chooses by rule."""
    hu_offset: int | None = None
    """What was added to the HU of pictures of more than 8 bits, which None refuses, and of NIfTI files."""
    spacing_mm: Spacing | None = None
    """Of pictures."""


@dataclass(frozen=True)
class Scan:
    """A patient's scan, ready for the network."""

    image_ZKHW: NDArray[np.uint8]
    slice_names: tuple[str, ...]
    spacing_mm: Spacing | None
    """Distances between voxel centres along Z, H and W; None where the files tell none."""
    write_mask: MaskWriter
    note: str | None = None
    """What was chosen and corrected, for people."""
    assumed: Window | None = None
    """The window that is taken where neither a person nor the files name one; None where they do."""

    @property
    def image_ZHW(self) -> NDArray[np.uint8]:
        """The slices in the first window, for people."""
        return self.image_ZKHW[:, 0]

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel; None where the spacing is not known."""
        return voxel_ml(self.spacing_mm) if self.spacing_mm else None


@dataclass(frozen=True)
class Patient:
    """A patient before its scan is read."""

    name: str
    pixels: Pixels
    """What its slices hold; HU can be seen in any windows."""
    open: Callable[[Pixels], Scan]
    """Reads the scan, in the windows that are asked for."""


def find_patients(path: Path, overrides: InputOverrides | None = None) -> list[Patient]:
    """The patients of an input: a slice, a volume, a study, or a folder of any of them.

    Args:
        path: file or folder.
        overrides: what the files do not say themselves.

    Raises:
        InputError: there are none, two have one name, or an option repeats what the files say, or is for other formats.
    """
    overrides = overrides or InputOverrides()
    series = overrides.series
    studies = _studies(path)
    if series is not None and len(studies) != 1:
        raise InputError(f"--series {series}: is for one DICOM study, but {path} holds {len(studies)}; give its folder")
    if overrides.hu_offset is not None and studies:
        raise InputError(f"--hu-offset {overrides.hu_offset}: DICOM files tell theirs; leave it out")
    patients = [_dicom(number, study, series) for number, study in enumerate(studies, start=1)]
    patients += [_nifti(name, file, overrides.hu_offset) for name, file in _volumes(path, beside_dicom=bool(studies))]
    if not patients or (path.is_dir() and has_pictures(path)):
        known = _known_of(path)
        patients += [_pictures(name, files, overrides, known) for name, files in input_patients(path)]
    elif overrides.spacing_mm:
        raise InputError(f"--spacing-mm: {path} holds no pictures, and other files tell theirs; leave it out")
    name, count = Counter(patient.name for patient in patients).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: {count} patients by the name {name}; rename all but one")
    return patients


def _studies(path: Path) -> tuple[DicomStudy, ...]:
    return find_studies(path).complete() if path.exists() and is_dicom(path) else ()


def _volumes(path: Path, *, beside_dicom: bool) -> list[tuple[str, Path]]:
    if is_nifti(path) and path.is_file():
        return [(_stem(path), path)]
    files = files_below(path, SUFFIXES) if path.is_dir() else []
    if not files or (beside_dicom and not sort_out(path, files, Patterns())[0]):
        return []  # masks alone are those that somebody drew on the series
    return [(_output_name(case.name, case.images[0]), case.images[0]) for case in find_nifti(path, Patterns())]


def _output_name(name: str, file: Path) -> str:
    """What a patient's results are called: as the file where that only spells the name otherwise, else by the name."""
    stem = _stem(file)
    letters = ("".join(filter(str.isalnum, text.lower())) for text in (stem, name))
    return stem if len(set(letters)) == 1 else name.replace("/", "_")


def _stem(path: Path) -> str:
    return path.name[: path.name.lower().index(".nii")]


@dataclass(frozen=True)
class _Known:
    """What a manifest says of the pictures beside it."""

    pixels: Pixels = GREY
    """What they hold."""
    spacing_mm: Mapping[Path, Spacing | None] = field(default_factory=dict)
    """By the folder of a patient's slices."""


def _known_of(path: Path) -> _Known:
    """What is known of a cohort, of a patient in it or of a slice of one; nothing of other pictures."""
    places = (path, *path.resolve().parents[:COHORT_DEPTH])
    root = next((place for place in places if (place / MANIFEST).is_file()), None)
    if root is None:
        return _Known()
    cohort = read_manifest(root / MANIFEST)
    return _Known(
        pixels_of(cohort),
        {(root / patient.images[0]).parent.resolve(): patient.spacing_mm for patient in cohort.patients},
    )


def _pictures(name: str, files: Sequence[Path], overrides: InputOverrides, known: _Known) -> Patient:
    stems = tuple(file.stem for file in files)
    known_mm = known.spacing_mm.get(files[0].parent.resolve())
    if known_mm and overrides.spacing_mm:
        raise InputError(f"--spacing-mm: {MANIFEST} tells that of {name}; leave it out")
    spacing_mm = known_mm or overrides.spacing_mm

    def write(folder: Path, mask_ZHW: NDArray[np.bool_]) -> None:
        for stem, mask_HW in zip(stems, mask_ZHW, strict=True):
            write_png(folder / name / f"{stem}.png", Image.fromarray(mask_HW.astype(np.uint8) * 255))

    def open_(seen: Pixels) -> Scan:
        if overrides.hu_offset is None:
            return Scan(read_windows(files, seen), stems, spacing_mm, write)
        values = read_picture_files(files, overrides.hu_offset)
        if not values.is_windowed:
            return Scan(_in_windows(values, seen), stems, spacing_mm, write, values.doubt, _assumed(seen))
        if seen.count > 1:
            raise InputError(f"{files[0]}: grey values in one window, but the model sees {in_words(seen.windows)}")
        return Scan(values.values_ZHW.astype(np.uint8)[:, None], stems, spacing_mm, write)

    return Patient(name, known.pixels if overrides.hu_offset is None else USUAL, open_)


def _nifti(name: str, file: Path, hu_offset: int | None) -> Patient:
    def open_(seen: Pixels) -> Scan:
        volume = read_nifti(file, hu_offset)
        return _scan(
            volume,
            seen,
            lambda folder, mask_ZHW: _write_nifti(folder / f"{name}.nii.gz", volume, mask_ZHW),
            volume.doubt,
        )

    return Patient(name, USUAL, open_)


def _dicom(number: int, study: DicomStudy, series: int | None) -> Patient:
    name = f"patient_{number:04d}"

    def open_(seen: Pixels) -> Scan:
        scan = open_files(study.files, series)
        author = Author("LCNN", _version())
        return _scan(
            scan.volume,
            seen,
            lambda folder, mask_ZHW: write_seg(folder / f"{name}.dcm", scan, mask_ZHW, author),
            scan.summary,
        )

    return Patient(name, USUAL, open_)


def _scan(volume: Volume, seen: Pixels, write: MaskWriter, note: str | None = None) -> Scan:
    names = tuple(f"{number:03d}" for number in range(1, len(volume.values_ZHW) + 1))
    return Scan(
        image_ZKHW=_in_windows(volume, seen),
        slice_names=names,
        spacing_mm=volume.spacing_mm,
        write_mask=write,
        note=note,
        assumed=_assumed(seen),
    )


def _in_windows(volume: Volume, seen: Pixels) -> NDArray[np.uint8]:
    return np.stack([window.to_grey(volume.values_ZHW) for window in seen.windows], axis=1)


def _assumed(seen: Pixels) -> Window | None:
    return seen.windows[0] if seen == USUAL else None


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
