"""NumPy archives: an array of the image and one of the mask, in one file or two, a slice or a volume each.

    STUDY/SLICE/image.npz  STUDY/SLICE/mask.npz          as in CPAISD
    PATIENT/SLICE.npz      PATIENT.npz                   with arrays ``image`` and ``mask``

Arrays of uint8 are grey values, others HU. They carry no orientation: rows are taken from front to back, slices from
below upward, as in the cohort's own layout.

Legend: Z slices, H rows, W columns.
"""

import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.common.errors import InputError, first_line
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.labels import labels_of
from data_prep.sources.naming.pairing import paired
from data_prep.sources.naming.tree import Found, Patterns, files_below, listed, sort_out
from data_prep.volumes.checks import check_finite, check_hu, check_shape
from data_prep.volumes.volume import Volume

SUFFIXES = (".npz",)
IMAGE_NAMES = ("image", "img", "ct", "volume")
MASK_NAMES = ("mask", "label", "seg", "lesion")
NO_IMAGE = "a mask without its image; add it, or say --image-pattern"
UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, LookupError, OverflowError, MemoryError, SyntaxError, RuntimeError,
    NotImplementedError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip


def read_npz(files: Sequence[Path], hu_offset: int | None = None) -> Volume:
    """A patient's image out of one archive, or of one a slice, in the order given.

    Args:
        files: the archives.
        hu_offset: what was added to the HU in arrays that are not uint8; None where nothing was.

    Raises:
        InputError: an archive cannot be read, or holds no image.
    """
    values_ZHW = _stack(files, IMAGE_NAMES)
    is_windowed = values_ZHW.dtype == np.uint8
    check_finite(files[0], values_ZHW)
    with np.errstate(all="ignore"):  # what does not fit is infinite, and refused
        values_ZHW = values_ZHW.astype(np.float32)
    check_finite(files[0], values_ZHW)
    if is_windowed:
        return Volume(values_ZHW, is_windowed=True, grid=None)
    values_ZHW -= np.float32(hu_offset or 0)
    return Volume(values_ZHW, is_windowed=False, grid=None, doubt=check_hu(files[0], values_ZHW, hu_offset))


def read_npz_mask(
    files: Sequence[Path], shape_ZHW: tuple[int, ...], lesion: Collection[int] | None, ignored: Collection[int] = ()
) -> NDArray[np.uint8]:
    """A patient's mask as `Label`, (Z, H, W), out of the archives that hold it; values as in `labels_of`.

    Raises:
        InputError: an archive cannot be read, or its size is not the image's.
    """
    values_ZHW = _stack(files, MASK_NAMES)
    if values_ZHW.shape != shape_ZHW:
        sizes = " but ".join(" x ".join(map(str, shape)) for shape in (values_ZHW.shape, shape_ZHW))
        raise InputError(f"{files[0]}: {sizes} voxels in its image; export both alike")
    return labels_of(files[0], values_ZHW, lesion, ignored)


def has_mask(path: Path) -> bool:
    """Whether an archive holds a mask beside its image.

    Raises:
        InputError: it cannot be read.
    """
    names = _headers(path)
    return _choose(names, MASK_NAMES) is not None and _choose(names, IMAGE_NAMES) is not None


def _stack(files: Sequence[Path], names: Sequence[str]) -> NDArray[Any]:
    parts: list[NDArray[Any]] = []
    for file in files:
        part = _read(file, names, len(files))
        if parts and (part.shape[1:] != parts[0].shape[1:] or part.dtype != parts[0].dtype):
            raise InputError(f"{file}: another size or type than {files[0].name}; export all slices alike")
        parts.append(part)
    return np.concatenate(parts)


def _read(path: Path, names: Sequence[str], count: int) -> NDArray[Any]:
    """One array as (Z, H, W); its header is judged before anything of it is unpacked."""
    headers = _headers(path)
    name = _choose(headers, names) or (next(iter(headers)) if len(headers) == 1 else None)
    if name is None:
        raise InputError(f"{path}: no array named {' or '.join(names)} (but {_shown(headers)}); rename it")
    shape, dtype = headers[name]
    if not np.issubdtype(dtype, np.bool_) and not (
        np.issubdtype(dtype, np.number) and not np.issubdtype(dtype, np.complexfloating)
    ):
        raise InputError(f"{path}: array {name} holds {dtype}, not numbers; export it again")
    if len(shape) not in (2, 3):
        raise InputError(f"{path}: array {name} is {len(shape)}-dimensional; save a slice or a volume")
    shape_ZHW = (count, *shape) if len(shape) == 2 else shape
    check_shape(path, shape_ZHW)
    try:
        with warnings.catch_warnings(action="ignore"), np.load(path, allow_pickle=False) as archive:
            values: NDArray[Any] = archive[name]
    except UNREADABLE as error:
        raise InputError(_unreadable(path, error)) from error
    return values[None] if values.ndim == 2 else values


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of an archive's arrays, by name."""
    headers = {}
    try:
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as stream:
                        headers[member.removesuffix(".npy")] = _header(stream)
    except UNREADABLE as error:
        raise InputError(_unreadable(path, error)) from error
    if not headers:
        raise InputError(f"{path}: an archive without arrays; replace it")
    return headers


def _header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _choose(names: Collection[str], wanted: Sequence[str]) -> str | None:
    known = {name.casefold(): name for name in names}
    return next((known[word] for word in wanted if word in known), None)


def _shown(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:4])


def _unreadable(path: Path, error: BaseException) -> str:
    reason = first_line(error).replace(str(path), path.name)
    return f"{path}: not a readable archive ({reason}); replace it"


def find_npz(root: Path, patterns: Patterns) -> list[Case]:
    """The patients in a tree of archives.

    Raises:
        InputError: an archive that cannot be read, or two for one slice.
    """
    images, masks = sort_out(root, files_below(root, SUFFIXES), patterns)
    patients: dict[str, dict[str, Found]] = {}
    for image in images:
        name, piece = _place(image)
        pieces = patients.setdefault(name, {})
        if piece in pieces:
            raise InputError(
                f"{image.path}: two archives for one slice ({listed([pieces[piece], image])}); say --image-pattern"
            )
        pieces[piece] = image
    archives = {(name, piece): image for name, pieces in patients.items() for piece, image in pieces.items()}
    least = 2 if any(piece for _, piece in archives) else 1
    labels = dict(paired(archives, [(_place(mask), mask) for mask in masks], least=least, missing=NO_IMAGE))
    return [_case(name, pieces, labels) for name, pieces in patients.items()]


def _place(file: Found) -> tuple[str, str]:
    """The patient and the slice that a file belongs to; volumes are a patient's only piece."""
    headers = _headers(file.path)
    names = MASK_NAMES if file.is_mask else IMAGE_NAMES
    shape, _ = headers[_choose(headers, names) or next(iter(headers))]
    parts = (*file.folders, file.stem_words) if file.stem_words else file.folders
    if len(shape) != 2:
        return "/".join(parts), ""
    if len(parts) < 2:
        raise InputError(f"{file.path}: a slice outside of a patient's folder; give each patient a folder")
    return "/".join(parts[:-1]), parts[-1]


def _case(name: str, pieces: dict[str, Found], labels: dict[tuple[str, str], Found]) -> Case:
    """Masks of their own, or None where they lie beside the images."""
    own = tuple(labels[name, piece].path if (name, piece) in labels else None for piece in pieces)
    return Case(name, tuple(piece.path for piece in pieces.values()), own if any(own) else None, SourceFormat.NPZ)
