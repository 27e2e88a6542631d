"""Which cohort a space file means, and sizes at which nothing is left to learn."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_cohort import SIDE, SLICES, write_cohort

from data_prep.cohort.compiled import compile_cohort
from data_prep.cohort.layout import MANIFEST, scan_cohort, write_manifest
from data_prep.cohort.split import Split
from data_prep.cohort.store import Store, StoredPatient
from data_prep.common.errors import InputError
from data_prep.intensity.window import WINDOWS, KeptHu
from data_prep.preprocessing.picture import PictureConfig
from search.run.prepare import alike_slices, check_lesions, find_cohort, leak_in_words, window_count
from search.spec.settings import CohortConfig


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def windows_of(config: CohortConfig) -> int:
    return window_count(find_cohort(config), config)


def test_the_phantom_stands_in_for_the_default_folder_only() -> None:
    place = find_cohort(CohortConfig(fallback="phantom"))
    assert place.is_phantom
    assert place.root.parent == Path("data")
    with pytest.raises(InputError, match=r"cohort\.root: /srv/typo: no such folder"):
        find_cohort(CohortConfig(fallback="phantom", root="/srv/typo"))
    with pytest.raises(InputError, match=r"cohort\.root: data: no such folder"):
        find_cohort(CohortConfig(fallback="none"))


def test_a_folder_with_something_else_in_it_is_refused() -> None:
    Path("data/scans").mkdir(parents=True)
    with pytest.raises(InputError, match="it holds scans, but no images/ folder"):
        find_cohort(CohortConfig(fallback="phantom"))


def test_a_folder_of_the_layout_is_the_user_s_whatever_its_name() -> None:
    Path("phantom-mine/images").mkdir(parents=True)
    place = find_cohort(CohortConfig(root="phantom-mine", fallback="phantom"))
    assert place == (Path("phantom-mine"), False)


def test_a_half_made_import_is_refused() -> None:
    Path("half/images").mkdir(parents=True)
    Path("half/.import").mkdir()
    with pytest.raises(InputError, match="half: was imported, but not to the end"):
        find_cohort(CohortConfig(root="half"))


def test_windows_are_counted_before_anything_is_compiled() -> None:
    write_cohort(Path("mine"))
    assert windows_of(CohortConfig(root="mine")) == 1
    assert windows_of(CohortConfig(fallback="phantom", intensity_window=("brain",))) == 1
    three = tuple(WINDOWS.values())
    write_manifest(scan_cohort(Path("mine")).model_copy(update={"hu": KeptHu(windows=three[:1])}), Path("mine"))
    assert windows_of(CohortConfig(root="mine", intensity_window=tuple(WINDOWS))) == 3
    (Path("mine") / MANIFEST).unlink()
    for refused in (
        CohortConfig(fallback="phantom", intensity_window=("stroke",)),
        CohortConfig(root="mine", intensity_window=("wide",)),
    ):
        with pytest.raises(InputError, match=r"cohort\.intensity_window: .* asked for, but the 8-bit slices"):
            windows_of(refused)


def test_other_phantom_settings_are_another_folder() -> None:
    first = find_cohort(CohortConfig(fallback="phantom"))
    other = CohortConfig.model_validate({"fallback": "phantom", "phantom": {"patients": 9}})
    assert find_cohort(other).root != first.root


@pytest.mark.parametrize(("lesion", "part"), [((0, 1, 1), "training"), ((1, 0, 1), "validation")])
def test_a_size_at_which_the_lesions_vanish_is_refused(lesion: tuple[int, ...], part: str) -> None:
    patients = {
        name: StoredPatient(start=n, stop=n + 1, box=(0, 0, 4), native=(4, 4), spacing_mm=None, lesion_pixels=1)
        for n, name in enumerate("abc")
    }
    blank = np.zeros((3, 4, 4), dtype=np.uint8)
    lesion_N = np.array(lesion, dtype=bool)
    store = Store(Path("store"), "hash", PictureConfig(image_size=8), blank, blank, lesion_N, patients)
    split = Split(cohort_hash="hash", seed=0, train=("a",), val=("b",), test=("c",))
    with pytest.raises(InputError, match=f"at 8 pixels no lesion of the {part} patients is left; raise it"):
        check_lesions(store, split, 8)


def test_slices_that_leak_are_looked_for_once_and_counted(tmp_path: Path) -> None:
    root, table = tmp_path / "cohort", tmp_path / "run" / "near_duplicates.csv"
    write_cohort(root)
    data = compile_cohort(root, tmp_path / "cache", PictureConfig(image_size=SIDE, crop="none"))
    split = Split(cohort_hash="any", seed=0, train=("a",), val=("b",), test=("c",))
    assert alike_slices(table, data, split, ()) == []
    assert table.exists()

    shutil.copytree(root / "images" / "a", root / "images" / "c", dirs_exist_ok=True)
    data = compile_cohort(root, tmp_path / "other-cache", PictureConfig(image_size=SIDE, crop="none"))
    assert alike_slices(table, data, split, ()) == []
    table.unlink()
    found = alike_slices(table, data, split, ())
    assert {(pair.part, pair.other_part) for pair in found} == {("train", "test")}
    assert leak_in_words(found).startswith(f"{SLICES} pairs of slices ({SLICES} identical) of 1 pairs of patients look")
