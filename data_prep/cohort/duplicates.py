"""Slices that two patients of different parts share: a leak from training into the test that a split cannot see.

A slice's signature is its picture, in its patient's own frame, at `SIDE` pixels, less its coarse shading; the
correlation of two signatures tells how alike the slices are. On the two cohorts that this was tried on (a real one, and
the phantom), copies that were re-encoded, windowed anew or made noisy correlate by 0.99 and more, copies turned by one
degree by 0.97, nineteen of twenty copies in another crop by 0.95, and the most alike slices of different patients by
0.94 and 0.91. So a copy that was turned by two degrees or shifted by a hundredth of the picture may be missed, and
another scan of a patient who is in the cohort twice is: it is no more alike than the scan of a stranger. Scans that the
cohort knows to be of one person are in one part, and are not compared.

Legend: N slices of the cohort, M slices of a part, S stored side, P side of a signature.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from data_prep.cohort.compiled import CompiledCohort
from data_prep.cohort.layout import Patient
from data_prep.cohort.pixels import pixels_of
from data_prep.cohort.split import PARTS, Part, Split
from data_prep.cohort.store import StoredPatient, read_slice
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import table_text, write_text_atomically
from data_prep.preprocessing.framing import to_native
from data_prep.preprocessing.head import Box

SIDE = 48
SHADING = 3.0
"""Standard deviation, in pixels of a signature, of what is taken for shading: the head's outline, which heads share."""
ALIKE = 0.95
"""Correlation from which two slices are reported."""
BRIGHT = 24
"""Grey value from which a pixel is counted as head."""
LEAST_HEAD = 0.2
"""Slices with less head than this share of the patient's fullest slice are left out: blank ones and the vertex, which
look alike in everybody."""
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class AlikeSlices:
    """Two slices that look alike, of patients in different parts or folds."""

    part: Part
    patient: str
    slice: str
    other_part: Part
    other_patient: str
    other_slice: str
    correlation: float
    """Of the signatures, -1..1."""
    identical: bool
    """Whether the pictures are the same, pixel by pixel."""


COLUMNS = tuple(f.name for f in fields(AlikeSlices))


@dataclass(frozen=True)
class _Signatures:
    """The slices of one part that are looked at."""

    owner_M: list[tuple[Patient, int]]
    """Each slice's patient and its place among the patient's slices."""
    values_MF: NDArray[np.float32]
    """Zero mean and unit length, so that products are correlations."""


def find_alike(data: CompiledCohort, split: Split, folds: Sequence[Split] = ()) -> list[AlikeSlices]:
    """Pairs of slices that look alike across the parts of the split, the most alike first.

    Args:
        data: the cohort.
        split: its parts.
        folds: where there are some, pairs across their validation parts are reported as well.

    Raises:
        InputError: a slice of a pair cannot be read.
    """
    signatures = {part: _signatures(data, getattr(split, part)) for part in PARTS}
    fold_of = {name: number for number, fold in enumerate(folds) for name in fold.val}
    found = []
    for part, other in combinations_with_replacement(PARTS, 2):
        ours, theirs = signatures[part], signatures[other]
        for row, column, correlation in _matches(ours.values_MF, theirs.values_MF):
            one, two = ours.owner_M[row], theirs.owner_M[column]
            folded = row < column and fold_of.get(one[0].id) != fold_of.get(two[0].id)
            if (part != other or folded) and data.store.person(one[0].id) != data.store.person(two[0].id):
                found.append(_pair(data, part, one, other, two, correlation))
    return sorted(found, key=lambda pair: (-pair.correlation, pair.patient, pair.slice))


def _signatures(data: CompiledCohort, names: tuple[str, ...]) -> _Signatures:
    owners: list[tuple[Patient, int]] = []
    pictures: list[NDArray[np.float32]] = []
    for patient in data.cohort.patients:
        if patient.id not in names:
            continue
        entry = data.store.patients[patient.id]
        stored_ZSS = data.store.images_NSS[entry.start : entry.stop]
        for place in telling_slices(stored_ZSS).tolist():
            owners.append((patient, place))
            pictures.append(_in_own_frame(stored_ZSS[place], entry))
    return _Signatures(owners, normalised(np.array(pictures, dtype=np.float32).reshape(-1, SIDE, SIDE)))


def telling_slices(image_ZHW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Places of the slices that show enough head to be compared."""
    head_Z = (image_ZHW >= BRIGHT).mean(axis=(1, 2))
    return np.flatnonzero((head_Z > 0) & (head_Z >= LEAST_HEAD * head_Z.max()))


def _in_own_frame(stored_SS: NDArray[np.uint8], entry: StoredPatient) -> NDArray[np.float32]:
    """A stored slice on its patient's whole picture, at the size of a signature.

    The crop is one for all slices of a patient, so the same slice is cropped differently in two patients.
    """
    native_HW = to_native(stored_SS.astype(np.float32), Box(*entry.box), entry.native)
    return np.asarray(Image.fromarray(native_HW).resize((SIDE, SIDE), Image.Resampling.BOX))


def normalised(picture_MPP: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signatures (M, P * P) of pictures: without shading, zero mean, unit length."""
    details_MPP = picture_MPP - ndimage.gaussian_filter(picture_MPP, (0, SHADING, SHADING))
    values_MF = details_MPP.reshape(len(details_MPP), SIDE * SIDE)
    values_MF = values_MF - values_MF.mean(axis=1, keepdims=True)
    length_M1 = np.linalg.norm(values_MF, axis=1, keepdims=True)
    return values_MF / np.maximum(length_M1, np.finfo(np.float32).tiny)


def _matches(ours_MF: NDArray[np.float32], theirs_MF: NDArray[np.float32]) -> Iterator[tuple[int, int, float]]:
    for start in range(0, len(ours_MF), ROWS_AT_ONCE):
        correlation = ours_MF[start : start + ROWS_AT_ONCE] @ theirs_MF.T
        for row, column in np.argwhere(correlation >= ALIKE).tolist():
            yield start + row, column, float(correlation[row, column])


def _pair(
    data: CompiledCohort,
    part: Part,
    ours: tuple[Patient, int],
    other: Part,
    theirs: tuple[Patient, int],
    correlation: float,
) -> AlikeSlices:
    pixels = pixels_of(data.cohort)
    file, other_file = (data.root / patient.images[place] for patient, place in (ours, theirs))
    return AlikeSlices(
        part,
        ours[0].id,
        file.name,
        other,
        theirs[0].id,
        other_file.name,
        round(correlation, 4),
        identical=np.array_equal(read_slice(file, pixels), read_slice(other_file, pixels)),
    )


def write_alike(path: Path, pairs: list[AlikeSlices]) -> None:
    """The pairs as CSV, a row a pair."""
    write_text_atomically(path, table_text(AlikeSlices, pairs))


def read_alike(path: Path) -> list[AlikeSlices]:
    """The pairs that `write_alike` kept.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise ValueError("other columns")
            return [_from_row(row) for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        reason = first_line(error)
        raise InputError(f"{path}: not a table of slices ({reason}); delete it to have it made anew") from error


def _from_row(row: Mapping[str, Any]) -> AlikeSlices:
    return AlikeSlices(**{**row, "correlation": float(row["correlation"]), "identical": row["identical"] == "True"})
