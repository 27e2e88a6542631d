"""``python -m data_prep``: what it makes and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.cohort.layout import open_cohort
from data_prep.cohort.pixels import pixels_of
from data_prep.cohort.store import read_patient


def small_cohort(root: Path) -> Path:
    for part in ("images", "masks"):
        for patient in ("a", "b"):
            (root / part / patient).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(root / part / patient / "1.png")
    return root


def test_phantom_is_a_cohort_that_says_it_is_synthetic(tmp_path: Path) -> None:
    assert main(["phantom", str(tmp_path / "p"), "--patients", "2", "--pixel-mm", "4", "--jobs", "1"]) == 0
    cohort = open_cohort(tmp_path / "p", tmp_path / "cache")
    assert cohort.synthetic
    assert "synthetic" in cohort.name
    assert [patient.spacing_mm for patient in cohort.patients] == [(5.0, 4.0, 4.0)] * 2


def test_the_phantom_can_keep_its_hu(tmp_path: Path) -> None:
    options = ("--patients", "1", "--pixel-mm", "8", "--jobs", "1", "--depth", "16", "--window", "stroke,brain")
    assert main(["phantom", str(tmp_path / "p"), *options]) == 0
    cohort = open_cohort(tmp_path / "p", tmp_path / "cache")
    assert [window.name for window in pixels_of(cohort).windows] == ["stroke", "brain"]
    image_ZKHW, mask_ZHW = read_patient(cohort.patients[0], tmp_path / "p", pixels_of(cohort))
    assert image_ZKHW.shape == (len(mask_ZHW), 2, 32, 32)
    assert image_ZKHW.max() == 255


def test_index_keeps_what_only_the_user_knows(tmp_path: Path) -> None:
    root = small_cohort(tmp_path / "c")
    assert main(["index", str(root), "--spacing-mm", "5", "0.5", "0.4", "--source", "us", "--name", "ours"]) == 0
    cohort = open_cohort(root, tmp_path / "cache")
    assert (cohort.name, cohort.source, cohort.synthetic) == ("ours", "us", False)
    assert {patient.spacing_mm for patient in cohort.patients} == {(5.0, 0.5, 0.4)}


BAD = {
    "no patients": (["phantom", "new", "--patients", "0"], "--patients 0"),
    "negative pixel": (["phantom", "new", "--pixel-mm", "-1"], "--pixel-mm -1"),
    "no process": (["phantom", "new", "--jobs", "0"], "--jobs 0"),
    "folder exists": (["phantom", "c"], "c: exists"),
    "no cohort": (["index", "new"], "new: no such folder"),
    "zero spacing": (["index", "c", "--spacing-mm", "5", "0", "1"], "distances are above 0"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, words = BAD[case]
    small_cohort(tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_an_existing_manifest_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small_cohort(tmp_path / "c")
    main(["index", str(root), "--name", "first"])
    assert main(["index", str(root), "--name", "second"]) == 2
    assert "delete it" in capsys.readouterr().err
    assert open_cohort(root, tmp_path / "cache").name == "first"
