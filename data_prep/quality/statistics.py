"""Figures of a cohort: grey values for normalisation, lesion volumes, slices.

Grey values are counted, one histogram of 256 bins a patient, so that all figures are exact and memory stays flat.

Legend: G grey values 0..255.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.cohort.layout import Patient, voxel_ml
from data_prep.cohort.normalisation import mean_and_deviation
from data_prep.cohort.pixels import Pixels
from data_prep.cohort.store import read_patient
from data_prep.common.files import table_text, write_text_atomically
from data_prep.volumes.mask import ignored_in, lesion_in

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
    ignored_voxels: int = 0
    """Voxels that are neither learnt nor scored."""

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
    ignored_voxels: int
    ignored_ml: float | None


def count_patient(task: tuple[Path, Patient, Pixels, bool]) -> PatientCounts:
    """Count one patient's pixels, in the first window.

    Args:
        task: the cohort's folder, the patient, what the slices hold, and whether masks hold what is ignored.

    Raises:
        InputError: a file cannot be read, sizes differ, or a mask is none.
    """
    root, patient, pixels, has_ignored = task
    image_ZKHW, label_ZHW = read_patient(patient, root, pixels, has_ignored=has_ignored)
    image_ZHW = image_ZKHW[:, 0]
    lesion = lesion_in(label_ZHW)
    return PatientCounts(
        patient=patient.id,
        slices=len(image_ZHW),
        lesion_slices=int(lesion.any(axis=(1, 2)).sum()),
        voxel_ml=voxel_ml(patient.spacing_mm) if patient.spacing_mm else None,
        # A slice at a time: bincount makes 64-bit copies of what it counts.
        grey_G=np.sum([np.bincount(slice_HW.ravel(), minlength=256) for slice_HW in image_ZHW], axis=0),
        lesion_G=np.bincount(image_ZHW[lesion], minlength=256),
        ignored_voxels=int(np.count_nonzero(ignored_in(label_ZHW))),
    )


def row_of(counts: PatientCounts) -> Row:
    """A patient's figures."""
    return _row(counts.patient, [counts])


def row_of_all(patients: Sequence[PatientCounts]) -> Row:
    """The cohort's figures, over all pixels of all patients; its volumes are None unless all spacings are known."""
    return _row("all", patients)


def _row(name: str, patients: Sequence[PatientCounts]) -> Row:
    grey_G = np.sum([p.grey_G for p in patients], axis=0)
    lesion_G = np.sum([p.lesion_G for p in patients], axis=0)
    head_G = np.where(GREY_G > 0, grey_G, 0)
    mean, sd = mean_and_deviation(grey_G)
    low, median, high = (_quantile(head_G, share) for share in (0.01, 0.5, 0.99))
    return Row(
        patient=name,
        slices=sum(p.slices for p in patients),
        lesion_slices=sum(p.lesion_slices for p in patients),
        lesion_voxels=sum(p.lesion_voxels for p in patients),
        lesion_ml=_volume(patients, [p.lesion_voxels for p in patients]),
        grey_mean=round(mean, 3),
        grey_sd=round(sd, 3),
        grey_p1=low,
        grey_median=median,
        grey_p99=high,
        lesion_grey_mean=round(float((lesion_G * GREY_G).sum() / lesion_G.sum()), 2) if lesion_G.any() else None,
        ignored_voxels=sum(p.ignored_voxels for p in patients),
        ignored_ml=_volume(patients, [p.ignored_voxels for p in patients]),
    )


def _volume(patients: Sequence[PatientCounts], voxels: Sequence[int]) -> float | None:
    """Their volume in ml; None unless all spacings are known."""
    sizes = [p.voxel_ml for p in patients if p.voxel_ml is not None]
    if len(sizes) < len(patients):
        return None
    return round(sum(size * count for size, count in zip(sizes, voxels, strict=True)), 3)


def _quantile(counts_G: NDArray[np.int64], share: float) -> int:
    """The smallest grey value that at least this share of the pixels does not exceed."""
    reached_G = np.cumsum(counts_G)
    return int(np.searchsorted(reached_G, share * reached_G[-1])) if reached_G[-1] else 0


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write them as CSV."""
    write_text_atomically(path, table_text(Row, rows))
