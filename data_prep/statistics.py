"""Figures of a cohort: grey values for normalisation, lesion volumes, slices.

Grey values are counted, one histogram of 256 bins a patient, so that all figures are exact and memory stays flat.

Legend: G grey values 0..255.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.cohort import Patient, voxel_ml
from data_prep.files import table_text, write_text_atomically
from data_prep.store import read_patient
from data_prep.window import KeptHu

GREY_G = np.arange(256)


@dataclass(frozen=True)
class PatientCounts:
    """What is counted in one patient."""

    patient: str
    slices: int
    lesion_slices: int
    voxel_ml: float | None
    """None where the spacing is not known."""
    grey_G: NDArray[np.int64]
    """Pixels of each grey value."""
    lesion_G: NDArray[np.int64]
    """And within the lesion."""

    @property
    def lesion_voxels(self) -> int:
        """Size of the lesion on the patient's own grid."""
        return int(self.lesion_G.sum())


@dataclass(frozen=True)
class Row:
    """Figures of a patient, or of all; grey values are over pixels above 0, as training normalises them."""

    patient: str
    """``all`` for the cohort."""
    slices: int
    lesion_slices: int
    lesion_voxels: int
    lesion_ml: float | None
    grey_mean: float
    grey_sd: float
    grey_p1: int
    grey_median: int
    grey_p99: int
    lesion_grey_mean: float | None
    """Over lesion pixels, black ones included; None without lesion."""


def count_patient(task: tuple[Path, Patient, KeptHu | None]) -> PatientCounts:
    """Count one patient's pixels.

    Args:
        task: the cohort's folder, the patient, and how slices of 16 bits hold HU.

    Raises:
        InputError: a file cannot be read, sizes differ, or a mask is not binary.
    """
    root, patient, hu = task
    image_ZHW, mask_ZHW = read_patient(patient, root, hu)
    lesion = mask_ZHW > 0
    return PatientCounts(
        patient=patient.id,
        slices=len(image_ZHW),
        lesion_slices=int(lesion.any(axis=(1, 2)).sum()),
        voxel_ml=voxel_ml(patient.spacing_mm) if patient.spacing_mm else None,
        # A slice at a time: bincount makes 64-bit copies of what it counts.
        grey_G=np.sum([np.bincount(slice_HW.ravel(), minlength=256) for slice_HW in image_ZHW], axis=0),
        lesion_G=np.bincount(image_ZHW[lesion], minlength=256),
    )


def row_of(counts: PatientCounts) -> Row:
    """A patient's figures."""
    volume = counts.lesion_voxels * counts.voxel_ml if counts.voxel_ml is not None else None
    return _row(
        counts.patient,
        counts.slices,
        counts.lesion_slices,
        counts.lesion_voxels,
        volume,
        counts.grey_G,
        counts.lesion_G,
    )


def row_of_all(patients: Sequence[PatientCounts]) -> Row:
    """The cohort's figures, over all pixels of all patients; its volume is None unless all spacings are known."""
    volumes = [p.lesion_voxels * p.voxel_ml for p in patients if p.voxel_ml is not None]
    return _row(
        "all",
        sum(p.slices for p in patients),
        sum(p.lesion_slices for p in patients),
        sum(p.lesion_voxels for p in patients),
        sum(volumes) if len(volumes) == len(patients) else None,
        np.sum([p.grey_G for p in patients], axis=0),
        np.sum([p.lesion_G for p in patients], axis=0),
    )


def _row(
    name: str,
    slices: int,
    lesion_slices: int,
    voxels: int,
    volume: float | None,
    grey_G: NDArray[np.int64],
    lesion_G: NDArray[np.int64],
) -> Row:
    head_G = np.where(GREY_G > 0, grey_G, 0)
    total = max(int(head_G.sum()), 1)
    mean = float((head_G * GREY_G).sum() / total)
    sd = math.sqrt(float((head_G * (GREY_G - mean) ** 2).sum() / total))
    lesion_mean = round(float((lesion_G * GREY_G).sum() / lesion_G.sum()), 2) if lesion_G.any() else None
    low, median, high = (_quantile(head_G, share) for share in (0.01, 0.5, 0.99))
    rounded = round(volume, 3) if volume is not None else None
    return Row(
        name, slices, lesion_slices, voxels, rounded, round(mean, 3), round(sd, 3), low, median, high, lesion_mean
    )


def _quantile(counts_G: NDArray[np.int64], share: float) -> int:
    """The smallest grey value that at least this share of the pixels does not exceed."""
    reached_G = np.cumsum(counts_G)
    return int(np.searchsorted(reached_G, share * reached_G[-1])) if reached_G[-1] else 0


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write them as CSV."""
    write_text_atomically(path, table_text(Row, rows))
