"""What a mask says of a pixel, in arrays and as the grey values of its file."""

from collections.abc import Collection
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.common.errors import InputError


class Label(IntEnum):
    """What a pixel is."""

    BACKGROUND = 0
    LESION = 1
    IGNORED = 2
    """Nobody knows: it is neither learnt nor scored."""


IGNORED_GREY = 128
"""In a file, between background (0) and lesion (255)."""
GREY_OF = np.array([0, 255, IGNORED_GREY], dtype=np.uint8)
"""Grey values of the labels, in their order."""

FIRM = 64
"""Mask values this near to 0 or 255 are taken for them, as JPEG and resizing blur masks."""
MIDDLE = 128
"""Grey value from which a pixel of a blurred mask is lesion."""
MOST_UNSURE = 1 / 3
"""Largest share of a mask's pixels above 0 that may lie between, for the mask to be made binary unasked."""
LABELS = 4
"""A mask of so few values, 0 included, may be one of labels, and only a person knows what they mean."""
OFF_WHOLE = 0.05
"""By how much a value may be off the whole number that it stands for: files scale labels to the range of integers."""
ONE_VALUE = 1e-3
"""By how much values may differ that stand for the same label."""


class NoMask(InputError):
    """A mask that can be read, but does not say where the lesion is."""


def labelled(lesion: NDArray[np.bool_], ignored: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Labels of these pixels; what is both lesion and ignored is ignored, for it is not sure."""
    labels = lesion.astype(np.uint8)
    if ignored is not None:
        labels[ignored] = Label.IGNORED
    return labels


def lesion_in(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels are lesion."""
    # As a plain number: compared with the enum, numpy casts every pixel, in fifteen times the time.
    return labels == int(Label.LESION)


def ignored_in(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels are neither learnt nor scored."""
    return labels == int(Label.IGNORED)


def to_grey(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels as they are written to a file."""
    return GREY_OF[labels]


def from_grey(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels of a file's grey values, of which `is_mask` holds."""
    return labelled(grey > 0, grey == IGNORED_GREY)


def whole_numbers(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """A mask's values, those of floating point rounded where they are labels but for rounding.

    Label 1 comes back as 0.99999994 from arithmetic, and as 0.996 from a file that scales its values. Two values that
    would become one label are not rounded, so that 0 and 1/255 remain two.

    Args:
        path: the mask's file, for messages.
        values: what it holds; all finite.

    Raises:
        NoMask: they are no labels.
    """
    if not np.issubdtype(values.dtype, np.inexact):
        return values
    whole = np.rint(values)
    off = np.abs(values - whole)
    if off.max(initial=0) > 0:
        _refuse_fractions(path, values, whole, off)
    return whole


def _refuse_fractions(path: Path, values: NDArray[Any], whole: NDArray[Any], off: NDArray[Any]) -> None:
    remedy = "cut probabilities at a threshold of yours first, and save whole numbers"
    if off.max() > OFF_WHOLE:
        raise NoMask(f"{path}: mask values such as {float(values.flat[off.argmax()]):.4g}; {remedy}")
    for label in np.unique(whole):
        lowest, highest = float(values[whole == label].min()), float(values[whole == label].max())
        if highest - lowest > ONE_VALUE:
            raise NoMask(f"{path}: mask values such as {lowest:.4g} and {highest:.4g}; {remedy}")


def is_mask(values: Collection[float], *, has_ignored: bool) -> bool:
    """Whether a file of these grey values is a mask: 0 and 255, or 0 and 1.

    Args:
        values: the grey values that occur.
        has_ignored: whether the cohort says that its masks hold 128 beside 0 and 255.
    """
    found = set(values)
    return found <= {0, 1} or found <= {0, 255} | ({IGNORED_GREY} if has_ignored else set())


def expected_values(values: Collection[float], *, has_ignored: bool) -> str:
    """What to say of a file that is no mask: which values one holds, and what may be meant by these."""
    if has_ignored:
        return "a mask of this cohort holds 0, 255 and, for what is ignored, 128, or 0 and 1"
    remedy = "; is 128 to be ignored, `python -m data_prep index --ignored` says so"
    return "a mask holds 0 and 255, or 0 and 1" + (remedy if is_mask(values, has_ignored=True) else "")


def is_blurred(counts_256: NDArray[np.int64]) -> bool:
    """Whether a mask's values are two, blurred, as JPEG or resizing leaves them, so that splitting them at 128 is safe.

    Args:
        counts_256: pixels of each grey value.
    """
    if np.count_nonzero(counts_256) <= LABELS or not counts_256[256 - FIRM :].any():
        return False
    unsure = int(counts_256[FIRM : 256 - FIRM].sum())
    return unsure <= MOST_UNSURE * int(counts_256[FIRM:].sum())
