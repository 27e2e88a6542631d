"""The signatures of all slices of a cohort, on disk, and the slices that patients share.

A signature is that of `data_prep.cohort.duplicates`. A temporary file holds them, so that memory does not grow with
the cohort.

Legend: M slices of a patient, F values of a signature.
"""

import tempfile
from collections.abc import Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.cohort.duplicates import ALIKE, ROWS_AT_ONCE, SIDE, normalised

STORED = np.dtype(np.float16)
"""Half the room; products of unit vectors are off by less than 0.001."""


def signatures(image_MHW: NDArray[np.uint8]) -> NDArray[np.float16]:
    """One row a slice."""
    small = [Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX) for picture in image_MHW]
    return normalised(np.array(small, dtype=np.float32).reshape(-1, SIDE, SIDE)).astype(STORED)


class SignatureFile:
    """Signatures of patients, one after the other."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self._owner: list[tuple[int, int]] = []

    def __enter__(self) -> "SignatureFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, patient: int, slices: NDArray[np.int64], values_MF: NDArray[np.float16]) -> None:
        """Append a patient's; ``slices`` are the places of its rows among the patient's slices."""
        self._file.seek(0, 2)
        self._file.write(values_MF.astype(STORED).tobytes())
        self._owner.extend((patient, int(place)) for place in slices)

    def shared(self) -> Iterator[tuple[tuple[int, int], tuple[int, int], float]]:
        """Pairs of slices (patient, place) of different patients that look alike, with their correlation."""
        starts = range(0, len(self._owner), ROWS_AT_ONCE)
        for first in starts:
            ours_MF = self._rows(first)
            for second in (start for start in starts if start >= first):
                correlation = ours_MF @ self._rows(second).T
                for row, column in np.argwhere(correlation >= ALIKE).tolist():
                    one, two = self._owner[first + row], self._owner[second + column]
                    if one[0] < two[0]:
                        yield one, two, float(correlation[row, column])

    def _rows(self, start: int) -> NDArray[np.float32]:
        count = min(ROWS_AT_ONCE, len(self._owner) - start)
        row_bytes = SIDE * SIDE * STORED.itemsize
        self._file.seek(start * row_bytes)
        return np.frombuffer(self._file.read(count * row_bytes), dtype=STORED).reshape(count, -1).astype(np.float32)
