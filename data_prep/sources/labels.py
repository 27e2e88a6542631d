"""Which values of a mask are lesion."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import InputError
from data_prep.sources.checks import check_finite


def lesion_of(path: Path, labels: NDArray[Any], lesion: Collection[int] | None) -> NDArray[np.bool_]:
    """A mask's lesion as yes or no.

    Args:
        path: the mask's file, for messages.
        labels: its values.
        lesion: those that are lesion; None takes the one value beside 0.

    Raises:
        InputError: values that are no labels, or several where none was named.
    """
    check_finite(path, labels)
    _refuse_fractions(path, labels)
    if lesion is not None:
        return np.isin(labels, list(lesion))
    values = np.unique(labels)
    beside = values[values != 0]
    if len(beside) > 1:
        shown = ", ".join(f"{value:g}" for value in beside[:6])
        raise InputError(f"{path}: mask values {shown} beside 0; say which are lesion by --lesion-labels")
    return np.asarray(labels != 0)


def _refuse_fractions(path: Path, labels: NDArray[Any]) -> None:
    if not np.issubdtype(labels.dtype, np.inexact):
        return
    fractions = labels[labels != np.round(labels)]
    if fractions.size:
        raise InputError(
            f"{path}: mask values such as {float(fractions[0]):g}; cut probabilities at a threshold of yours first"
        )
