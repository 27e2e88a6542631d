"""NIfTI headers that say twice where the voxels lie."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from data_prep.sources.formats.nifti import place_doubt, read_nifti

VALUES = np.random.default_rng(0).integers(-1000, 1200, (30, 30, 10)).astype(np.int16)
SPACING = np.diag([-0.5, -0.5, 2.5, 1.0])


def write(path: Path, sform: np.ndarray | None, qform: np.ndarray | None) -> Path:
    image = nibabel.Nifti1Image(VALUES, None)
    image.set_sform(sform, code=0 if sform is None else 1)
    image.set_qform(qform, code=0 if qform is None else 1)
    nibabel.save(image, path)
    return path


def shifted(mm: float) -> np.ndarray:
    return SPACING + np.array([[0, 0, 0, mm]] + 3 * [[0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("sform", "qform"),
    [(SPACING, None), (None, SPACING), (SPACING, SPACING), (SPACING, shifted(1e-4))],
    ids=["sform", "qform", "both", "rounding"],
)
def test_one_place_is_no_doubt(tmp_path: Path, sform: np.ndarray | None, qform: np.ndarray | None) -> None:
    assert place_doubt(write(tmp_path / "scan.nii.gz", sform, qform)) is None


@pytest.mark.parametrize(
    ("qform", "words"),
    [
        (SPACING @ np.diag([1, 1, 2, 1]), "(5 x 0.5 x 0.5 mm) disagree"),
        (SPACING @ np.diag([1, 1, 2, 1]), "sform is used, by qform volumes would be 2 times as large"),
        (shifted(20.0), "volumes would be the same"),
    ],
    ids=["spacing", "volumes", "place"],
)
def test_two_places_are_told_with_what_they_mean(tmp_path: Path, qform: np.ndarray, words: str) -> None:
    path = write(tmp_path / "scan.nii.gz", SPACING, qform)
    volume = read_nifti(path)
    assert volume.spacing_mm == (2.5, 0.5, 0.5)  # that of the sform
    assert words in (volume.doubt or "")
