"""What the picture of a mask says: by its grey values, the indices of its palette, or its transparency.

Where colours and transparency do not say the same of a pixel, the file is refused, for a mask that is read wrongly
looks like any other.

Legend: H rows, W columns, C red, green and blue, I the entries of a palette.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.volumes.checks import check_finite
from data_prep.volumes.mask import NoMask, whole_numbers

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
"""Pillow's modes of more than 8 bits a pixel."""
ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
"""Those with a transparency of each pixel."""
GREY_TOLERANCE = 4
"""By how much the colours of a grey pixel may differ, of 255; JPEG rounds them apart."""
OPAQUE = 255
UNCLEAR = "save it as grey: 0 where there is no lesion, 255 lesion"


def mask_values(picture: Image.Image, path: Path) -> NDArray[Any]:
    """What an opened mask holds, (H, W): uint8, or another type where it has more than 8 bits a pixel.

    - Grey values are taken as they are; values of floating point are rounded as in `whole_numbers`.
    - Of indexed colours the indices are taken, unless the whole palette is grey.
    - Transparency decides where the colours say nothing: a pixel that is not transparent is lesion.

    Raises:
        InputError: it holds NaN or infinity.
        NoMask: it is in colour, colours and transparency contradict each other, or values are no whole numbers.
    """
    if picture.mode in DEEP_MODES:
        values_HW = np.asarray(picture)
        check_finite(path, values_HW, is_mask=True)
        return whole_numbers(path, values_HW)
    if picture.mode == "P" and (indices_HW := _labels_by_index(picture)) is not None:
        return indices_HW
    if picture.mode in ALPHA_MODES or picture.has_transparency_data:
        return _with_transparency(np.asarray(picture.convert("RGBA")), path)
    return grey_values(picture, path)


def grey_values(picture: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Grey values (H, W) of an opened picture of 8 bits, however it holds them; transparency is passed over.

    Raises:
        NoMask: it is in colour.
    """
    if picture.mode in ("L", "1"):
        return np.asarray(picture.convert("L"))
    colours_HWC = np.asarray(picture.convert("RGB"))
    if not _is_grey(colours_HWC):
        raise NoMask(f"{path}: in colour (an overlay?); export it in grey")
    return np.asarray(picture.convert("L"))


def _is_grey(colours_C: NDArray[np.uint8]) -> bool:
    return not colours_C.size or int(np.ptp(colours_C.astype(np.int16), axis=-1).max()) <= GREY_TOLERANCE


def _labels_by_index(picture: Image.Image) -> NDArray[np.uint8] | None:
    """The indices, where they are labels: index 0 is the background, and colours only show which is which."""
    indices_HW = np.asarray(picture)
    palette_IC = np.array(picture.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    used, first = np.unique(indices_HW, return_index=True)
    if _is_grey(palette_IC) or used[-1] >= len(palette_IC):
        return None
    shown_I4 = np.asarray(picture.convert("RGBA")).reshape(-1, 4)[first]
    is_background_I = ~shown_I4[:, :3].any(axis=1) | (shown_I4[:, 3] == 0)
    is_mostly_0 = 2 * np.count_nonzero(indices_HW) < indices_HW.size
    if is_background_I[used > 0].any() or not (is_mostly_0 or not palette_IC[0].any()):
        return None
    return indices_HW


def _with_transparency(pixels_HW4: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    colours_HWC, alpha_HW = pixels_HW4[..., :3], pixels_HW4[..., 3]
    shown_HW = alpha_HW > 0
    is_plain = bool((colours_HWC == colours_HWC[0, 0]).all())
    if shown_HW.all() and np.ptp(alpha_HW) == 0 and not (is_plain and colours_HWC.any()):
        return _greys(colours_HWC, path)
    hidden, shown = colours_HWC[~shown_HW], colours_HWC[shown_HW]
    is_one_opacity = len(np.unique(alpha_HW[shown_HW])) <= 1
    if not is_plain and not hidden.any() and is_one_opacity and _is_grey(shown):
        return _greys(colours_HWC, path)
    is_drawn = len(shown) > 0 and bool((shown == shown[0]).all()) and (bool(shown.any()) or not hidden.any())
    if len(hidden) >= alpha_HW.size / 2 and (is_plain or is_drawn):
        return np.where(shown_HW, OPAQUE, 0).astype(np.uint8) if is_one_opacity else alpha_HW
    raise NoMask(f"{path}: its colours and its transparency do not say the same of where the lesion is; {UNCLEAR}")


def _greys(colours_HWC: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    return grey_values(Image.fromarray(np.ascontiguousarray(colours_HWC)), path)
