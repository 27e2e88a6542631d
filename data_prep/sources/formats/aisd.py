"""AISD, the acute ischemic stroke dataset (Liang et al., MICCAI 2021): pictures whose masks hold labels.

Labels 1, 2, 3 and 5 are lesion. Label 4 says that a reader was not sure: it is ignored, neither learnt nor scored.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data_prep.common.errors import InputError
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.formats.pictures import read_mask_pixels

LESION = frozenset({1, 2, 3, 5})
IGNORED = frozenset({4})
LABELS = frozenset({0}) | IGNORED | LESION


def is_aisd(cases: Sequence[Case]) -> bool:
    """Whether these patients' masks hold AISD's labels: nothing beside them, and one of 2..5.

    A mask that cannot be read is passed over, for the import of its patient says so.
    """
    for mask in (mask for case in cases for mask in case.masks if mask):
        try:
            values = set(np.unique(read_mask_pixels(mask)).tolist())
        except InputError:
            continue
        if not values <= LABELS:
            return False
        if values - {0, 1}:
            return True
    return False


def as_aisd(cases: Sequence[Case]) -> list[Case]:
    """The same patients, to be read with AISD's labels."""
    return [replace(case, kind=SourceFormat.AISD) for case in cases]
