"""How the files of a cohort's slices hold grey values: 8 bits in one window, windows as colours, or HU in 16 bits.

Legend: K windows, of which the first is the one that people are shown, H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.cohort.layout import Cohort
from data_prep.common.errors import InputError
from data_prep.intensity.window import WINDOWS, Window, in_words

HU_MODES = ("I", "I;16", "I;16B")
"""Pillow's names for 16-bit pixels."""


@dataclass(frozen=True)
class Pixels:
    """What is in the files, and in which windows it is seen."""

    windows: tuple[Window, ...] = ()
    """In order; empty: one, which nobody has named."""
    hu_offset: int | None = None
    """What 16-bit slices hold above their HU; None: slices have 8 bits."""
    colours: tuple[int, ...] = ()
    """Which colour of an 8-bit picture is each of the windows; empty: slices are grey."""

    @property
    def count(self) -> int:
        """Number of windows."""
        return max(1, len(self.windows))

    def seen_in(self, windows: Sequence[Window]) -> "Pixels | None":
        """The same files in other windows; None where they do not hold these."""
        if self.hu_offset is not None:
            return replace(self, windows=tuple(windows))
        if not set(windows) <= set(self.windows):
            return None
        colours = tuple(self.colours[self.windows.index(window)] for window in windows) if self.colours else ()
        return replace(self, windows=tuple(windows), colours=colours)

    def to_grey(self, image: Image.Image, path: Path) -> NDArray[np.uint8]:
        """Grey values (K, H, W) of an opened slice.

        Raises:
            InputError: it does not hold what it should.
        """
        if self.hu_offset is not None:
            if image.mode not in HU_MODES:
                raise InputError(f"{path}: {image.mode} pixels, but the cohort's slices hold HU; import it again")
            values_hu_HW = np.asarray(image).astype(np.float32) - np.float32(self.hu_offset)
            return np.stack([window.to_grey(values_hu_HW) for window in self.windows])
        if self.colours:
            if image.mode != "RGB":
                raise InputError(
                    f"{path}: {image.mode} pixels, but the cohort's slices are {in_words(self.windows)} as red, green "
                    "and blue; import it again"
                )
            return np.ascontiguousarray(np.moveaxis(np.asarray(image)[..., list(self.colours)], -1, 0))
        return np.asarray(as_grey(image, path))[None]


GREY = Pixels()
"""Slices of which nothing is known: 8-bit grey."""


def as_grey(image: Image.Image, path: Path) -> Image.Image:
    """An opened picture as 8-bit grey.

    Raises:
        InputError: it holds more than 8 bits a pixel, which no rule says how to window.
    """
    if image.mode in (*HU_MODES, "F"):
        raise InputError(
            f"{path}: {image.mode} pixels; window the scan to 8-bit grey first, or say by --hu-offset what was "
            "added to its HU (python -m data_prep import, python -m lcnn predict)"
        )
    return image.convert("L")


def pixels_of(cohort: Cohort) -> Pixels:
    """What a cohort's files hold, in its own windows, as its manifest describes it."""
    if cohort.hu:
        return Pixels(cohort.hu.windows, hu_offset=cohort.hu.offset)
    # Of earlier versions and of `index` there are words only.
    named = [window for window in WINDOWS.values() if cohort.window in (window.name, str(window))]
    windows = cohort.windows or tuple(named)
    return Pixels(windows, colours=tuple(range(len(windows))) if len(windows) > 1 else ())


def in_chosen_windows(pixels: Pixels, names: Sequence[str] | None, where: str) -> Pixels:
    """A cohort's slices in the windows that ``cohort.intensity_window`` names; None: their own.

    Args:
        pixels: what they hold.
        names: of windows.
        where: the cohort, for messages.

    Raises:
        InputError: the slices have 8 bits, in other windows than these.
    """
    if names is None:
        return pixels
    chosen = pixels.seen_in([WINDOWS[name] for name in names])
    if chosen is None:
        raise InputError(
            f"cohort.intensity_window: {', '.join(names)} asked for, but the 8-bit slices of {where} are in "
            f"{in_words(pixels.windows)}; set it to null, or make the cohort anew with --depth 16, which keeps the HU"
        )
    return chosen
