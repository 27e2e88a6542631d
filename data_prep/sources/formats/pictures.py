"""PNG, JPEG and TIFF slices, one folder a patient; masks beside them or in folders of their own.

    images/p1/001.png  masks/p1/001.png        or p1/images/001.png  p1/masks/001.png
    p1/001.png         p1/001_mask.png

Legend: Z slices, H rows, W columns.
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data_prep.cohort.layout import SLICE_SUFFIXES
from data_prep.common.errors import InputError, first_line
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.labels import labels_of
from data_prep.sources.naming.pairing import paired
from data_prep.sources.naming.tree import Found, Patterns, files_below, listed, sort_out
from data_prep.volumes.checks import check_finite, check_hu, check_shape
from data_prep.volumes.mask import MIDDLE, is_blurred, labelled
from data_prep.volumes.mask_picture import DEEP_MODES, grey_values, mask_values
from data_prep.volumes.volume import Volume

NO_SLICE = "a mask without its slice; add it, or say --image-pattern"
MOST_PIXELS = 2**26
"""Of a picture: 8,192 x 8,192."""


def read_picture_files(files: Sequence[Path], hu_offset: int | None = None) -> Volume:
    """A patient's slices, in the order given.

    Args:
        files: the slices.
        hu_offset: what was added to the HU in slices of more than 8 bits; None refuses those.

    Raises:
        InputError: a slice cannot be taken, or they differ in size or depth.
    """
    slices: list[NDArray[Any]] = []
    for file in files:
        pixels_HW = read_pixels(file)
        check_shape(file, (len(files), *pixels_HW.shape))
        if slices and pixels_HW.shape != slices[0].shape:
            raise InputError(f"{file}: {_size(pixels_HW)} pixels, but {_size(slices[0])} in {files[0].name}")
        if slices and (pixels_HW.dtype == np.uint8) != (slices[0].dtype == np.uint8):
            raise InputError(f"{file}: 8 and 16 bits are mixed in one patient; export all slices alike")
        slices.append(pixels_HW)
    is_windowed = slices[0].dtype == np.uint8
    if not is_windowed and hu_offset is None:
        raise InputError(
            f"{files[0]}: more than 8 bits a pixel; say by --hu-offset what was added to the HU (0, 1000, 1024)"
        )
    values_ZHW = np.stack(slices).astype(np.float32)
    if is_windowed:
        return Volume(values_ZHW, is_windowed=True, grid=None)
    check_finite(files[0], values_ZHW)
    values_ZHW -= np.float32(hu_offset or 0)
    return Volume(values_ZHW, is_windowed=False, grid=None, doubt=check_hu(files[0], values_ZHW, hu_offset))


def read_picture_masks(
    masks: Sequence[Path | None],
    shape_ZHW: tuple[int, ...],
    lesion: Collection[int] | None,
    ignored: Collection[int] = (),
) -> NDArray[np.uint8]:
    """The masks of the slices as `Label`, (Z, H, W); a slice without a mask holds 0.

    Blurred ones, as JPEG leaves them, are split in the middle.

    Args:
        masks: the mask of each slice.
        shape_ZHW: of the slices.
        lesion, ignored: values that are so, as in `labels_of`.

    Raises:
        InputError: a mask cannot be taken, or its size is not the slices'.
    """
    values_ZHW = np.zeros(shape_ZHW, dtype=np.float32)
    for z, file in enumerate(masks):
        if file is not None:
            values_HW = read_mask_pixels(file)
            if values_HW.shape != shape_ZHW[1:]:
                size = f"{shape_ZHW[2]}x{shape_ZHW[1]}"
                raise InputError(f"{file}: {_size(values_HW)} pixels, but its slice has {size}; export both alike")
            values_ZHW[z] = values_HW
    first = next((file for file in masks if file), Path())
    if not is_smeared(values_ZHW):
        return labels_of(first, values_ZHW, lesion, ignored)
    if ignored or not {255}.issuperset(lesion or ()):
        raise InputError(
            f"{first}: values are blurred, as JPEG leaves them, so labels cannot be told apart; export masks as PNG"
        )
    return labelled(values_ZHW >= MIDDLE)


def is_smeared(values_ZHW: NDArray[np.float32]) -> bool:
    """Whether a patient's masks are of lesion and background, blurred."""
    if values_ZHW.min() < 0 or values_ZHW.max() > 255:
        return False
    return is_blurred(np.bincount(values_ZHW.astype(np.uint8).ravel(), minlength=256))


def read_pixels(path: Path) -> NDArray[Any]:
    """A picture's grey values: uint8 (H, W), or int or float where it holds more than 8 bits.

    Palettes and colours are taken where all of it is grey.

    Raises:
        InputError: it cannot be decoded, is in colour, or holds several pages.
    """
    return _decoded(
        path, lambda picture: np.asarray(picture) if picture.mode in DEEP_MODES else grey_values(picture, path)
    )


def read_mask_pixels(path: Path) -> NDArray[Any]:
    """A mask's values, (H, W), as `mask_values` tells them.

    Raises:
        InputError: it cannot be decoded, does not say where the lesion is, or holds several pages.
    """
    return _decoded(path, lambda picture: mask_values(picture, path))


def _decoded(path: Path, decode: Callable[[Image.Image], NDArray[Any]]) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged notes beside the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise InputError(
                        f"{path}: {picture.width}x{picture.height} pixels, more than any slice; replace it"
                    )
                pages = getattr(picture, "n_frames", 1)
                if pages > 1:
                    raise InputError(f"{path}: {pages} pages in one file; export a file a slice")
                return decode(picture)
    except InputError:
        raise
    except (
        UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning,
        OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        reason = first_line(error).replace(str(path), path.name)
        raise InputError(f"{path}: cannot be decoded ({reason}); replace the file") from error


def _size(pixels_HW: NDArray[Any]) -> str:
    return f"{pixels_HW.shape[1]}x{pixels_HW.shape[0]}"


def find_pictures(root: Path, patterns: Patterns) -> list[Case]:
    """The patients in a tree of pictures.

    Raises:
        InputError: slices without a patient's folder, two files for a slice, or masks without slices.
    """
    images, masks = sort_out(root, files_below(root, SLICE_SUFFIXES), patterns)
    patients: dict[str, dict[str, Found]] = {}
    for image in images:
        if not image.folders:
            raise InputError(f"{image.path}: a slice outside of a patient's folder; give each patient a folder")
        _place(patients, image, _place_of(image))
    slices = {(patient, stem): image for patient, found in patients.items() for stem, image in found.items()}
    labels: dict[str, dict[str, Found]] = {}
    for place, mask in paired(slices, [(_place_of(mask), mask) for mask in masks], least=2, missing=NO_SLICE):
        _place(labels, mask, place)
    return [_case(name, found, labels.get(name, {})) for name, found in patients.items()]


def _place_of(file: Found) -> tuple[str, str]:
    """The patient and the slice."""
    return "/".join(file.folders), file.stem_words


def _place(patients: dict[str, dict[str, Found]], file: Found, place: tuple[str, str]) -> None:
    patient, key = place
    slices = patients.setdefault(patient, {})
    if key in slices:
        what = "--mask-pattern" if file.is_mask else "--image-pattern"
        raise InputError(f"{file.path}: two files for one slice ({listed([slices[key], file])}); choose by {what}")
    slices[key] = file


def _case(name: str, slices: dict[str, Found], masks: dict[str, Found]) -> Case:
    files = tuple(masks[stem].path if stem in masks else None for stem in slices)
    return Case(
        name=name,
        image=tuple(image.path for image in slices.values()),
        mask=files if masks else None,
        kind=SourceFormat.PICTURES,
    )
