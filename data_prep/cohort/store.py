"""The compiled cohort: every slice at one size, in arrays that any number of processes map read-only.

Decoding and resizing PNGs is paid once per (cohort, size, crop); after that a stack of slices is a slice of
an array, and all trials on a machine share the same pages of memory.

    <cache>/<hash>-<size>-<crop>/images.npy   uint8 (N, K, S, S), all patients' slices one after the other
    <cache>/<hash>-<size>-<crop>/masks.npy    uint8 (N, S, S), share of the pixel that is lesion, 0..255
    <cache>/<hash>-<size>-<crop>/ignored.npy  the same of what is ignored; only where the cohort's masks know it
    <cache>/<hash>-<size>-<crop>/lesion.npy   bool (N,), whether a slice holds lesion at the stored size
    <cache>/<hash>-<size>-<crop>/index.json   where each patient's slices lie, their crop box and true size

Legend: N slices of the cohort, Z slices of a patient, K windows, of which the first is the one that people are shown,
H rows, W columns (native), S stored side.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.cohort.layout import Cohort, Patient, voxel_ml
from data_prep.cohort.pixels import GREY, Pixels, in_chosen_windows, pixels_of
from data_prep.common.errors import InputError, first_fault, first_line
from data_prep.common.files import replacing_folder
from data_prep.common.machine import available_cores
from data_prep.intensity.window import Window
from data_prep.preprocessing.framing import frame
from data_prep.preprocessing.picture import FORMER_NAME, REMOVED, PictureConfig
from data_prep.volumes.checks import check_shape
from data_prep.volumes.mask import NoMask, expected_values, from_grey, ignored_in, is_mask, lesion_in
from data_prep.volumes.mask_picture import mask_values

FORMAT = 3
IGNORED_FILE = "ignored.npy"


class StoredPatient(BaseModel):
    """Where a patient's slices lie in the store and how to get back to the patient's own grid."""

    model_config = ConfigDict(frozen=True)

    start: int
    stop: int
    box: tuple[int, int, int]
    """Square crop in native pixels: top, left, side."""
    native: tuple[int, int]
    """Rows and columns of the patient's own slices."""
    spacing_mm: tuple[float, float, float] | None
    lesion_pixels: int
    """Lesion pixels on the native grid over all slices."""

    @property
    def slice_count(self) -> int:
        """Number of slices."""
        return self.stop - self.start


@dataclass(frozen=True)
class Store:
    """A compiled cohort, opened read-only; pickles as a path, so workers map the same pages."""

    folder: Path
    cohort_hash: str
    picture: PictureConfig
    """How the slices were brought to their size."""
    windows_NKSS: NDArray[np.uint8]
    masks_NSS: NDArray[np.uint8]
    lesion_N: NDArray[np.bool_]
    patients: Mapping[str, StoredPatient]
    official_test: tuple[str, ...] = ()
    """Patients that every split tests; see `Cohort`."""
    ignored_NSS: NDArray[np.uint8] | None = None
    """Share of each pixel that is neither learnt nor scored, 0..255; None where the cohort's masks know no such value.

    A share and not a yes or no: with it, and with the lesion's, a loss at this size weights pixels as they were drawn.
    """
    windows: tuple[Window, ...] = ()
    """What the slices are seen in; empty: one window, which nobody has named."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Of the patients that are scans of one person; see `Patient.group`."""

    def person(self, patient: str) -> int | str:
        """As `Patient.person`."""
        return self.groups.get(patient, patient)

    @property
    def images_NSS(self) -> NDArray[np.uint8]:
        """The slices in the first window."""
        return self.windows_NKSS[:, 0]

    @property
    def window_count(self) -> int:
        """Number of windows."""
        return self.windows_NKSS.shape[1]

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Map the arrays under ``folder``.

        Raises:
            InputError: the folder is not a store of this format.
        """
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            images = np.load(folder / "images.npy", mmap_mode="r")
            masks = np.load(folder / "masks.npy", mmap_mode="r")
            lesion = np.load(folder / "lesion.npy")
            ignored = np.load(folder / IGNORED_FILE, mmap_mode="r") if (folder / IGNORED_FILE).exists() else None
            if index["format"] != FORMAT:
                raise InputError(f"{folder}: store format {index['format']}, not {FORMAT}; delete it")
            picture = PictureConfig.model_validate(index["picture"])
            patients = {name: StoredPatient.model_validate(entry) for name, entry in index["patients"].items()}
            official_test = tuple(index.get("official_test", ()))
            windows = tuple(Window.model_validate(window) for window in index["windows"])
            groups = {str(name): int(group) for name, group in index.get("groups", {}).items()}
        except InputError:
            raise
        except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = first_fault(error) if isinstance(error, ValidationError) else first_line(error)
            raise InputError(f"{folder}: not a readable store ({reason}); delete it to have it made anew") from error
        return cls(
            folder,
            index["cohort_hash"],
            picture,
            images,
            masks,
            lesion,
            patients,
            official_test,
            ignored,
            windows,
            groups,
        )

    def __reduce__(self) -> tuple[Callable[[Path], "Store"], tuple[Path]]:
        return (Store.open, (self.folder,))

    def lesion_volume(self, patient: str) -> float:
        """Lesion volume in ml where the spacing is known, else in native voxels."""
        entry = self.patients[patient]
        voxel = voxel_ml(entry.spacing_mm) if entry.spacing_mm else 1.0
        return entry.lesion_pixels * voxel


def store_folder(cohort: Cohort, cache: Path, picture: PictureConfig) -> Path:
    """The folder that the store of these settings has below ``cache``."""
    # These are no part of the cohort's hash, but the store's index or its pixels depend on them.
    inputs = [
        str(FORMAT),
        json.dumps([patient.spacing_mm for patient in cohort.patients]),
        cohort.model_dump_json(include={"window", "windows", "hu", "official_test"}),
        # Where the option stood: stores that were made without it are found again.
        picture.model_dump_json().replace('"intensity_window":', f'"{REMOVED}":false,"{FORMER_NAME}":'),
        *(["has_ignored"] if cohort.has_ignored else []),
        *([json.dumps(groups)] if (groups := _groups(cohort)) else []),
    ]
    key = hashlib.sha256("\n".join([cohort.hash, *inputs]).encode()).hexdigest()
    return cache / f"{key[:16]}-{picture.image_size}-{picture.crop}"


def _groups(cohort: Cohort) -> dict[str, int]:
    return {patient.id: patient.group for patient in cohort.patients if patient.group is not None}


def compile_store(
    cohort: Cohort,
    root: Path,
    cache: Path,
    picture: PictureConfig,
    *,
    on_patient: Callable[[int, int], None] | None = None,
) -> Store:
    """Compile the cohort's slices as pictures of this kind, or open the store where it already exists.

    Raises:
        InputError: a slice cannot be decoded, sizes differ within a patient, a mask is none, or the slices do not hold
            the windows that are asked for.
    """
    pixels = in_chosen_windows(pixels_of(cohort), picture.intensity_window, str(root))
    folder = store_folder(cohort, cache, picture)
    if (folder / "index.json").exists():
        return Store.open(folder)
    with replacing_folder(folder) as partial:
        _compile(cohort, root, partial, picture, pixels, on_patient)
    return Store.open(folder)


def _compile(
    cohort: Cohort,
    root: Path,
    folder: Path,
    picture: PictureConfig,
    pixels: Pixels,
    on_patient: Callable[[int, int], None] | None,
) -> None:
    side = picture.image_size
    images = _Rows(folder / "images.npy", (cohort.slice_count, pixels.count, side, side))
    masks = _Rows(folder / "masks.npy", (cohort.slice_count, side, side))
    ignored = _Rows(folder / IGNORED_FILE, (cohort.slice_count, side, side)) if cohort.has_ignored else None
    lesion_N = np.zeros(cohort.slice_count, dtype=np.bool_)
    starts = np.cumsum([0, *(len(patient.images) for patient in cohort.patients)])
    entries: dict[str, StoredPatient] = {}

    def work(patient: Patient, start: int) -> tuple[str, StoredPatient]:
        return patient.id, _store_patient(patient, root, start, images, masks, ignored, lesion_N, picture, pixels)

    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        jobs = [pool.submit(work, patient, int(start)) for patient, start in zip(cohort.patients, starts, strict=False)]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                name, entry = job.result()
                entries[name] = entry
                if on_patient:
                    on_patient(done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    np.save(folder / "lesion.npy", lesion_N)
    index = {
        "format": FORMAT,
        "cohort_hash": cohort.hash,
        "picture": picture.model_dump(),
        "official_test": cohort.official_test,
        "groups": _groups(cohort),
        "windows": [window.model_dump() for window in pixels.windows],
        "patients": {patient.id: entries[patient.id].model_dump() for patient in cohort.patients},
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


class _Rows:
    """A new .npy file of uint8, written slice by slice in any order.

    A writable memory map would do the same, but the pages that it has touched stay with the process, so compiling
    would take as much memory as the cohort is large.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._path = path
        self._slice_bytes = math.prod(shape[1:])
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            self._offset = file.tell()
            file.truncate(self._offset + shape[0] * self._slice_bytes)

    def write(self, start: int, values: NDArray[np.uint8]) -> None:
        """Fill the slices from ``start`` on."""
        with self._path.open("r+b") as file:
            file.seek(self._offset + start * self._slice_bytes)
            file.write(np.ascontiguousarray(values).data)


def _store_patient(
    patient: Patient,
    root: Path,
    start: int,
    images: _Rows,
    masks: _Rows,
    ignored: _Rows | None,
    lesion_N: NDArray[np.bool_],
    picture: PictureConfig,
    pixels: Pixels,
) -> StoredPatient:
    image_ZKHW, label_ZHW = read_patient(patient, root, pixels, has_ignored=ignored is not None)
    lesion_ZHW = lesion_in(label_ZHW)
    framing = frame(image_ZKHW[:, 0], picture, patient.spacing_mm)
    share_ZSS = framing.shares(lesion_ZHW)
    images.write(start, framing.windows(image_ZKHW))
    masks.write(start, share_ZSS)
    if ignored:
        ignored.write(start, framing.shares(ignored_in(label_ZHW)))
    lesion_N[start : start + len(image_ZKHW)] = is_lesion(share_ZSS).any(axis=(1, 2))
    return StoredPatient(
        start=start,
        stop=start + len(image_ZKHW),
        box=tuple(framing.box),
        native=framing.native,
        spacing_mm=patient.spacing_mm,
        lesion_pixels=int(np.count_nonzero(lesion_ZHW)),
    )


def is_lesion(share: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Stored lesion shares (0..255) as a yes or no: at least half of the pixel."""
    return share > 127


def read_patient(
    patient: Patient, root: Path, pixels: Pixels = GREY, *, has_ignored: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A patient's own slices and masks: uint8 (Z, K, H, W) grey values, and uint8 (Z, H, W) of `Label`.

    Args:
        patient: whose.
        root: the cohort's folder.
        pixels: what the slices hold; see `data_prep.cohort.pixels.pixels_of`.
        has_ignored: whether masks hold 128 as well, as the cohort says.

    Raises:
        InputError: a file cannot be decoded, is too small for a slice, sizes differ, or a mask holds other values.
    """
    image_ZKHW = read_windows([root / name for name in patient.images], pixels)
    masks = [_read_labels(root / name, has_ignored=has_ignored) for name in patient.masks]
    for name, mask in zip(patient.masks, masks, strict=True):
        _check_size(root / name, mask, image_ZKHW.shape[2:], root / patient.images[0])
    return image_ZKHW, np.stack(masks)


def read_windows(files: Sequence[Path], pixels: Pixels = GREY) -> NDArray[np.uint8]:
    """A patient's slices as grey values, uint8 (Z, K, H, W).

    Raises:
        InputError: a file cannot be decoded, is too small for a slice, or sizes differ.
    """
    slices = [_read_grey(file, pixels) for file in files]
    for file, array in zip(files, slices, strict=True):
        _check_size(file, array[0], slices[0].shape[1:], files[0])
    check_shape(files[0], (len(slices), *slices[0].shape[1:]))
    return np.stack(slices)


def read_slice(file: Path, pixels: Pixels = GREY) -> NDArray[np.uint8]:
    """One slice in the first window, uint8 (H, W), whatever its size.

    Raises:
        InputError: it cannot be decoded.
    """
    return _read_grey(file, pixels)[0]


def read_mask(file: Path, *, has_ignored: bool = False) -> NDArray[np.uint8]:
    """The values of one mask, uint8 (H, W), as `mask_values` tells them; whether they are a mask's is not looked at.

    Raises:
        InputError: it cannot be decoded.
        NoMask: it does not say where the lesion is, or holds values that no grey has.
    """
    values_HW: NDArray[Any] = _decoded(file, lambda image: mask_values(image, file))
    if values_HW.dtype != np.uint8 and (values_HW.min() < 0 or values_HW.max() > 255):
        raise NoMask(_wrong_values(file, np.unique(values_HW).tolist(), has_ignored=has_ignored))
    return values_HW.astype(np.uint8, copy=False)


def _check_size(file: Path, array: NDArray[np.uint8], shape: tuple[int, ...], first: Path) -> None:
    if array.shape != shape:
        sizes = f"{array.shape[1]}x{array.shape[0]} pixels, but {shape[1]}x{shape[0]}"
        raise InputError(f"{file}: {sizes} in {first}; all slices of a patient need one size")


def _read_grey(path: Path, pixels: Pixels = GREY) -> NDArray[np.uint8]:
    return _decoded(path, lambda image: pixels.to_grey(image, path))


def _decoded(path: Path, decode: Callable[[Image.Image], NDArray[Any]]) -> NDArray[Any]:
    try:
        with Image.open(path) as image:
            return decode(image)
    except InputError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be decoded ({error}); replace the file") from error


def _read_labels(path: Path, *, has_ignored: bool) -> NDArray[np.uint8]:
    grey = read_mask(path, has_ignored=has_ignored)
    # np.unique sorts: ten times as slow.
    values = np.flatnonzero(np.bincount(grey.ravel(), minlength=256)).tolist()
    if not is_mask(values, has_ignored=has_ignored):
        raise NoMask(_wrong_values(path, values, has_ignored=has_ignored))
    return from_grey(grey)


def _wrong_values(path: Path, values: Sequence[float], *, has_ignored: bool) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:6])
    return f"{path}: mask values {shown}...; {expected_values(values, has_ignored=has_ignored)}"
