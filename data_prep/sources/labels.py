"""Which values of a mask are lesion, and which are ignored."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.common.errors import InputError
from data_prep.volumes.checks import check_finite
from data_prep.volumes.mask import labelled, whole_numbers


def labels_of(
    path: Path, values: NDArray[Any], lesion: Collection[int] | None, ignored: Collection[int] = ()
) -> NDArray[np.uint8]:
    """A mask's values as `Label`.

    Args:
        path: the mask's file, for messages.
        values: what it holds; such as are whole numbers but for rounding, as in `whole_numbers`.
        lesion: values that are lesion; None takes the one beside 0 that is not ignored.
        ignored: values that are neither learnt nor scored.

    Raises:
        InputError: values that are no labels, or several where none was named.
    """
    check_finite(path, values, is_mask=True)
    values = whole_numbers(path, values)
    if lesion is None:
        beside = np.setdiff1d(values, [0, *ignored])
        if len(beside) > 1 or (beside < 0).any():
            shown = ", ".join(f"{value:g}" for value in beside[:6])
            raise InputError(
                f"{path}: mask values {shown} beside 0; say which are lesion by --lesion-labels, and by "
                "--ignore-labels which nobody is sure of"
            )
        lesion = beside.tolist()
    return labelled(np.isin(values, list(lesion)), np.isin(values, list(ignored)) if ignored else None)
