"""Slices that two patients share are found across parts, and nothing else is."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from refusals import refusal
from scipy import ndimage

from data_prep.cohort.compiled import CompiledCohort, compile_cohort
from data_prep.cohort.duplicates import ALIKE, AlikeSlices, find_alike, read_alike, write_alike
from data_prep.cohort.layout import scan_cohort, with_groups, write_manifest
from data_prep.cohort.split import Split
from data_prep.intensity.window import HU_OFFSET, KeptHu, Window
from data_prep.preprocessing.picture import Crop, PictureConfig

SIDE = 96
SPLIT = Split(cohort_hash="any", seed=0, train=("a", "b"), val=("c",), test=("d",))


def head(seed: int, *, size: float = 1.0) -> NDArray[np.uint8]:
    """A skull with a brain of its own folds; one of no size is a blank slice."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    radius = np.hypot(row / 0.42, column / 0.34) / (SIDE * max(size, 1e-3))
    folds = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 2)
    brain = 120 + 60 * folds / folds.std()
    return np.clip(np.where(radius < 0.9, brain, np.where(radius < 1, 255, 0)), 0, 255).astype(np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four patients of four slices of their own, between two blank ones."""
    for number, patient in enumerate("abcd"):
        for place in range(6):
            size = 0.0 if place in (0, 5) else 0.8 + 0.05 * place
            save(tmp_path / "cohort" / "images" / patient / f"{place}.png", head(10 * number + place, size=size))
            save(tmp_path / "cohort" / "masks" / patient / f"{place}.png", np.zeros((SIDE, SIDE), dtype=np.uint8))
    return tmp_path / "cohort"


def compiled(root: Path, crop: Crop = "head") -> CompiledCohort:
    return compile_cohort(root, root.parent / "cache", PictureConfig(image_size=64, crop=crop))


def picture(root: Path, patient: str, place: int) -> NDArray[np.uint8]:
    with Image.open(root / "images" / patient / f"{place}.png") as image:
        return np.asarray(image)


def jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("crop", ["head", "none"])
def test_patients_of_their_own_share_nothing(root: Path, crop: Crop) -> None:
    assert find_alike(compiled(root, crop), SPLIT) == []


def test_slices_of_16_bits_are_compared_in_their_window(root: Path) -> None:
    shutil.copy(root / "images" / "a" / "2.png", root / "images" / "d" / "4.png")
    for file in (root / "images").rglob("*.png"):
        with Image.open(file) as image:
            deep = np.asarray(image).astype(np.uint16) + HU_OFFSET
        Image.fromarray(deep).save(file)
    window = Window(name="plain", level_hu=127.5, width_hu=255)
    write_manifest(scan_cohort(root).model_copy(update={"hu": KeptHu(windows=(window,))}), root)
    (pair,) = find_alike(compiled(root), SPLIT)
    assert (pair.other_patient, pair.identical) == ("d", True)


@pytest.mark.parametrize(("patient", "part", "found"), [("b", "train", 0), ("c", "val", 1), ("d", "test", 1)])
def test_a_copied_slice_is_found_where_it_crosses_parts(root: Path, patient: str, part: str, found: int) -> None:
    shutil.copy(root / "images" / "a" / "2.png", root / "images" / patient / "4.png")
    pairs = find_alike(compiled(root), SPLIT)
    assert len(pairs) == found
    for pair in pairs:
        assert (pair.part, pair.patient, pair.slice) == ("train", "a", "2.png")
        assert (pair.other_part, pair.other_patient, pair.other_slice) == (part, patient, "4.png")
        assert pair.correlation > ALIKE
        assert pair.identical is True


@pytest.mark.parametrize(("group", "found"), [("ad", 0), ("ac", 1)])
def test_scans_of_one_person_may_look_alike(root: Path, group: str, found: int) -> None:
    shutil.copy(root / "images" / "a" / "2.png", root / "images" / "d" / "4.png")
    write_manifest(with_groups(scan_cohort(root), dict.fromkeys(group, 1)), root)
    assert [(pair.patient, pair.other_patient) for pair in find_alike(compiled(root), SPLIT)] == [("a", "d")] * found


CHANGES = {
    "re-encoded": jpeg,
    "windowed anew": lambda image: np.clip(1.15 * image.astype(float) - 10, 0, 255).astype(np.uint8),
    "noisy": lambda image: np.clip(image + np.random.default_rng(5).normal(0, 4, image.shape), 0, 255).astype(np.uint8),
    "turned by a degree": lambda image: ndimage.rotate(image, 1, reshape=False, order=1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_that_was_changed_is_found_and_not_called_identical(root: Path, change: str) -> None:
    save(root / "images" / "d" / "3.png", CHANGES[change](picture(root, "a", 3)))
    (pair,) = find_alike(compiled(root), SPLIT)
    assert (pair.patient, pair.slice, pair.other_patient, pair.other_slice) == ("a", "3.png", "d", "3.png")
    assert pair.identical is False


def test_a_copy_is_found_though_its_new_patient_is_cropped_otherwise(root: Path) -> None:
    for place in (1, 2, 3):
        save(root / "images" / "d" / f"{place}.png", head(50 + place, size=1.1))
    shutil.copy(root / "images" / "a" / "4.png", root / "images" / "d" / "4.png")
    data = compiled(root)
    assert data.store.patients["a"].box != data.store.patients["d"].box
    assert [(pair.slice, pair.other_slice) for pair in find_alike(data, SPLIT)] == [("4.png", "4.png")]


def test_a_patient_under_two_names_is_found_slice_by_slice(root: Path) -> None:
    shutil.copytree(root / "images" / "c", root / "images" / "d", dirs_exist_ok=True)
    pairs = find_alike(compiled(root), SPLIT)
    assert sorted(pair.slice for pair in pairs) == ["1.png", "2.png", "3.png", "4.png"]
    assert all(pair.slice == pair.other_slice and pair.identical for pair in pairs)


def test_blank_patients_are_no_duplicates(root: Path) -> None:
    for patient in "ad":
        for place in range(6):
            save(root / "images" / patient / f"{place}.png", np.zeros((SIDE, SIDE), dtype=np.uint8))
    assert find_alike(compiled(root), SPLIT) == []


PAIRS = [
    AlikeSlices("train", "a, or b", "1.png", "test", "d", "2.png", 0.9876, True),
    AlikeSlices("val", "c", "1.png", "test", "d", "3.png", 0.951, False),
]


@pytest.mark.parametrize("pairs", [PAIRS, []])
def test_pairs_survive_the_way_to_disk_and_back(tmp_path: Path, pairs: list[AlikeSlices]) -> None:
    write_alike(tmp_path / "near_duplicates.csv", pairs)
    assert read_alike(tmp_path / "near_duplicates.csv") == pairs


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe", None], ids=["empty", "other", "no text", "value"])
def test_a_damaged_table_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "near_duplicates.csv"
    write_alike(path, PAIRS)
    path.write_bytes(path.read_bytes().replace(b"0.951", b"much") if content is None else content)
    message = refusal(lambda: read_alike(path))
    assert message.startswith(f"{path}: not a table of slices")
    assert message.endswith("delete it to have it made anew")


FOLDS = (
    SPLIT.model_copy(update={"train": ("b", "c"), "val": ("a",)}),
    SPLIT.model_copy(update={"train": ("a",), "val": ("b", "c")}),
)


@pytest.mark.parametrize(("source", "target", "found"), [("a", "b", 1), ("b", "c", 1), ("a", "d", 1), ("a", "a", 0)])
def test_with_folds_a_copy_is_found_where_it_crosses_them(root: Path, source: str, target: str, found: int) -> None:
    """b and c are of one fold, but of two parts of the split."""
    shutil.copy(root / "images" / source / "2.png", root / "images" / target / "4.png")
    pairs = find_alike(compiled(root), SPLIT, FOLDS)
    assert [(pair.patient, pair.other_patient) for pair in pairs] == [(source, target)] * found
