"""Pixels that nobody is sure of, from a source's mask to the store, the check and the statistics."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SIZE, open_dicom, write_series
from PIL import Image
from refusals import refusal
from scans import RAS, head_hu, picture_patients, save_nifti, save_png, spot
from test_dicom_seg import BRAIN, INFARCT, by_hand

from data_prep.__main__ import main
from data_prep.cohort.layout import Cohort, open_cohort, read_manifest, scan_cohort
from data_prep.cohort.store import Store, compile_store, read_patient, store_folder
from data_prep.preprocessing.picture import PictureConfig
from data_prep.quality.cohort_check import check_cohort
from data_prep.quality.findings import Finding, FindingKind, Fix, Severity
from data_prep.quality.fixes import apply_fixes
from data_prep.sources.dicom.seg import read_seg
from data_prep.sources.formats.npz import read_npz_mask
from data_prep.volumes.mask import Label, from_grey, is_mask, labelled, to_grey

PICTURE = PictureConfig(image_size=32, crop="none")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A patient of two slices; in the second, a lesion of 16 x 16 of which the right half is ignored."""
    for z in range(2):
        mask_HW = np.zeros((64, 64), dtype=np.uint8)
        mask_HW[20:36, 20:28], mask_HW[20:36, 28:36] = 255 * z, 128 * z
        image_HW = np.zeros((64, 64), dtype=np.uint8)
        image_HW[8:-8, 8:-8] = np.random.default_rng(z).integers(60, 200, (48, 48))
        save_png(tmp_path / "cohort" / "images" / "a" / f"{z}.png", image_HW)
        save_png(tmp_path / "cohort" / "masks" / "a" / f"{z}.png", mask_HW)
    return tmp_path / "cohort"


@pytest.fixture
def cohort(root: Path) -> Cohort:
    assert main(["index", str(root), "--ignored", "--spacing-mm", "5", "0.5", "0.5"]) == 0
    return open_cohort(root, root.parent / "cache")


# Masks


@pytest.mark.parametrize(
    ("values", "plain", "with_ignored"),
    [
        ([0], True, True),
        ([0, 255], True, True),
        ([0, 1], True, True),
        ([0, 128], False, True),
        ([0, 128, 255], False, True),
        ([0, 1, 128], False, False),
        ([0, 127, 255], False, False),
        ([0, 2], False, False),
    ],
)
def test_which_values_a_mask_holds(values: list[int], plain: bool, with_ignored: bool) -> None:
    assert [is_mask(values, has_ignored=known) for known in (False, True)] == [plain, with_ignored]


def test_labels_come_back_from_their_grey_values() -> None:
    labels = np.array([Label.BACKGROUND, Label.LESION, Label.IGNORED], dtype=np.uint8)
    assert to_grey(labels).tolist() == [0, 255, 128]
    assert np.array_equal(from_grey(to_grey(labels)), labels)
    assert labelled(np.array([True, False]), np.array([True, True])).tolist() == [Label.IGNORED] * 2


# The cohort and its store


def test_128_is_refused_where_the_cohort_does_not_say_so(root: Path) -> None:
    words = refusal(lambda: read_patient(scan_cohort(root).patients[0], root))
    assert "1.png: mask values 0, 128, 255" in words
    assert "index --ignored" in words
    main(["index", str(root), "--ignored"])
    cohort = read_manifest(root / "cohort.json")
    mask_ZHW = read_patient(cohort.patients[0], root, has_ignored=cohort.has_ignored)[1]
    assert [(mask_ZHW == label).sum() for label in Label] == [2 * 64 * 64 - 256, 128, 128]


def test_other_values_are_refused_all_the_same(cohort: Cohort, root: Path) -> None:
    save_png(root / "masks" / "a" / "0.png", np.full((64, 64), 64, dtype=np.uint8))
    assert "a mask of this cohort holds 0, 255 and" in refusal(
        lambda: read_patient(cohort.patients[0], root, has_ignored=True)
    )


def test_the_store_keeps_shares_of_what_is_ignored(cohort: Cohort, root: Path, tmp_path: Path) -> None:
    store = compile_store(cohort, root, tmp_path / "cache", PICTURE)
    assert store.ignored_NSS is not None
    assert store.ignored_NSS[1, 11:17, 15:17].min() == 255
    # As much as was drawn: 128 pixels are 32 of four times the area.
    assert [int(array_NSS.sum()) for array_NSS in (store.masks_NSS, store.ignored_NSS)] == pytest.approx(
        [32 * 255] * 2, rel=0.02
    )
    assert store.lesion_N.tolist() == [False, True]
    assert store.lesion_volume("a") == pytest.approx(0.16)
    assert Store.open(store.folder).ignored_NSS is not None


def test_other_cohorts_have_no_such_array_and_keep_their_store(cohort: Cohort, root: Path, tmp_path: Path) -> None:
    plain = cohort.model_copy(update={"has_ignored": False})
    assert store_folder(plain, tmp_path, PICTURE) != store_folder(cohort, tmp_path, PICTURE)
    for file in (root / "masks").rglob("*.png"):
        save_png(file, np.zeros((64, 64), dtype=np.uint8))
    store = compile_store(scan_cohort(root), root, tmp_path / "cache", PICTURE)
    assert store.ignored_NSS is None
    assert sorted(file.name for file in store.folder.iterdir()) == [
        "images.npy", "index.json", "lesion.npy", "masks.npy",
    ]  # fmt: skip


# Import


def test_nifti_labels_are_ignored_as_told(tmp_path: Path) -> None:
    for name, values in (("ct", head_hu()), ("mask", spot(value=1) + 7 * spot()[::-1])):
        save_nifti(tmp_path / "src" / "a" / f"{name}.nii.gz", values, RAS)
    place = [str(tmp_path / "src"), str(tmp_path / "dst"), "--jobs", "1"]
    assert main(["import", *place, "--ignore-labels", "7"]) == 0
    cohort = open_cohort(tmp_path / "dst", tmp_path / "cache")
    assert cohort.has_ignored
    mask_ZHW = read_patient(cohort.patients[0], tmp_path / "dst", has_ignored=True)[1]
    assert [(mask_ZHW == label).sum() for label in (Label.LESION, Label.IGNORED)] == [12, 12]
    assert main(["import", *place, "--lesion-labels", "1,7"]) == 0
    assert not open_cohort(tmp_path / "dst", tmp_path / "cache").has_ignored


def test_a_label_is_lesion_or_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture_patients(tmp_path / "src", (1, 4))
    place = [str(tmp_path / "src"), str(tmp_path / "dst"), "--jobs", "1"]
    assert main(["import", *place, "--lesion-labels", "1,4", "--ignore-labels", "4"]) == 2
    assert "--ignore-labels 4: is named by --lesion-labels too" in capsys.readouterr().err
    for chosen in (["--lesion-labels", "1,4"], ["--ignore-labels", "none"]):
        assert main(["import", *place, *chosen]) == 0
        assert not open_cohort(tmp_path / "dst", tmp_path / "cache").has_ignored


def test_arrays_hold_ignored_labels_too(tmp_path: Path) -> None:
    values_ZHW = np.zeros((1, 16, 16), dtype=np.int16)
    values_ZHW[0, 0, :4] = 1, 3, 9, 2
    np.savez(tmp_path / "mask.npz", mask=values_ZHW)
    found = read_npz_mask([tmp_path / "mask.npz"], values_ZHW.shape, {1, 9}, {3})
    assert found[0, 0, :4].tolist() == [Label.LESION, Label.IGNORED, Label.LESION, Label.BACKGROUND]
    assert not found[0, 1:].any()


def test_segments_are_ignored_as_told(tmp_path: Path) -> None:
    scan = open_dicom(write_series(tmp_path / "ct"))
    lesion_ZHW, unsure_ZHW = np.zeros((2, 12, *SIZE), dtype=bool)
    lesion_ZHW[4:7, 10:20, 5:12], unsure_ZHW[4:7, 10:20, 10:15] = True, True
    masks = np.stack([lesion_ZHW, unsure_ZHW], axis=-1).astype(np.uint8)
    file = by_hand(scan, masks, [INFARCT, BRAIN], tmp_path / "mask.dcm")
    expected = labelled(lesion_ZHW, unsure_ZHW)
    assert np.array_equal(read_seg(file, scan, ignored={2, 9}), expected)
    assert np.array_equal(read_seg(file, scan, [1], {2}), expected)
    assert not (read_seg(file, scan, ignored={1, 2}) == Label.LESION).any()


# Check, fix, statistics


def test_the_check_takes_128_where_the_manifest_says_so(root: Path, cohort: Cohort) -> None:
    assert not check_cohort(root, jobs=1).has_errors
    (root / "cohort.json").unlink()
    (found,) = [f for f in check_cohort(root, jobs=1).findings if f.kind is FindingKind.NOT_BINARY]
    assert "index --ignored" in found.detail
    assert found.fix is None


def test_a_blurred_mask_of_three_values_is_not_split(root: Path, cohort: Cohort) -> None:
    blurred = Image.open(root / "masks" / "a" / "1.png").resize((40, 40)).resize((64, 64))
    blurred.save(root / "masks" / "a" / "1.png")
    (found,) = [f for f in check_cohort(root, jobs=1).findings if f.kind is FindingKind.NOT_BINARY]
    assert (found.severity, found.fix) == (Severity.ERROR, None)


def test_a_turn_keeps_what_is_ignored(root: Path, cohort: Cohort) -> None:
    before_ZHW = read_patient(cohort.patients[0], root, has_ignored=True)[1]
    apply_fixes(root, [Finding(Severity.WARNING, FindingKind.TURNED, "a", "", "", Fix.TURN)])
    after = open_cohort(root, root.parent / "cache")
    assert after.has_ignored
    assert np.array_equal(
        read_patient(after.patients[0], root, has_ignored=True)[1], np.rot90(before_ZHW, 2, axes=(1, 2))
    )


def test_statistics_count_it_apart(
    root: Path, cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(root), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    with (tmp_path / "out" / "stats.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["lesion_voxels"], row["ignored_voxels"], row["ignored_ml"]) == ("128", "128", "0.16")
    assert "ignored: 0.16 ml" in capsys.readouterr().out
    assert json.loads((root / "cohort.json").read_text())["has_ignored"] is True
