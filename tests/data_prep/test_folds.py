"""Folds over the patients outside the test part."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import refusal

from data_prep.cohort.folds import lock_folds, make_folds
from data_prep.cohort.split import Split, SplitConfig, make_split
from data_prep.cohort.store import Store, StoredPatient
from data_prep.common.errors import InputError
from data_prep.preprocessing.picture import PictureConfig


def store_of(volumes: Sequence[int]) -> Store:
    """A store of one-slice patients of these lesion volumes; folds read no pixels."""
    patients = {
        f"p{n}": StoredPatient(start=n, stop=n + 1, box=(0, 0, 1), native=(1, 1), spacing_mm=None, lesion_pixels=volume)
        for n, volume in enumerate(volumes)
    }
    blank = np.zeros((len(volumes), 1, 1), dtype=np.uint8)
    return Store(Path("cache/store"), "c0ffee", PictureConfig(), blank, blank, np.array(volumes) > 0, patients)


@pytest.mark.parametrize("patients", [12, 20, 33, 60])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_every_patient_outside_the_test_validates_once(patients: int, count: int) -> None:
    store = store_of(np.random.default_rng(0).permutation(np.arange(1, patients + 1)).tolist())
    split = make_split(store, SplitConfig())
    folds = make_folds(store, split, count)
    outside = {*split.train, *split.val}
    assert len(folds) == count
    assert sorted(name for fold in folds for name in fold.val) == sorted(outside)
    sizes = [len(fold.val) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert {*fold.train, *fold.val} == outside
        assert not {*fold.train} & {*fold.val}
        assert fold.test == split.test


def test_every_fold_has_large_and_small_lesions() -> None:
    store = store_of([*range(1, 61)])
    for fold in make_folds(store, make_split(store, SplitConfig()), 5):
        volumes = [store.lesion_volume(name) for name in fold.val]
        assert min(volumes) <= 15
        assert max(volumes) >= 45


def test_a_seed_gives_the_same_folds_and_another_one_others() -> None:
    store = store_of([*range(1, 31)])
    splits = [make_split(store, SplitConfig(seed=seed)) for seed in (0, 0, 1)]
    same, again, other = (make_folds(store, split, 3) for split in splits)
    assert same == again
    assert same != other


def test_folds_without_groups_are_what_they_were_before_there_were_any() -> None:
    """As recorded then."""
    volumes = np.random.default_rng(1).permutation([*([0] * 4), *range(1, 17)]).tolist()
    store = store_of(volumes)
    assert [fold.val for fold in make_folds(store, make_split(store, SplitConfig(seed=3)), 3)] == [
        ("p0", "p2", "p4", "p5", "p9", "p17"),
        ("p6", "p7", "p8", "p10", "p14", "p18"),
        ("p3", "p12", "p13", "p15", "p16"),
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [2, 5])
def test_scans_of_a_person_are_in_one_fold(seed: int, count: int) -> None:
    names = np.random.default_rng(seed).permutation([f"p{n}" for n in range(60)]).tolist()
    store = replace(store_of([*range(1, 61)]), groups={name: place // 3 for place, name in enumerate(names)})
    split = make_split(store, SplitConfig(seed=seed))
    folds = make_folds(store, split, count)
    validating = [{store.person(name) for name in fold.val} for fold in folds]
    assert sum(map(len, validating)) == len(set.union(*validating))
    assert max(map(len, validating)) - min(map(len, validating)) <= 1
    for fold, persons in zip(folds, validating, strict=True):
        assert not persons & {store.person(name) for name in fold.train}
        assert {*fold.train, *fold.val} == {*split.train, *split.val}


def test_more_folds_than_persons_with_a_lesion_are_refused() -> None:
    store = replace(store_of([*range(1, 31)]), groups={f"p{n}": n // 6 for n in range(30)})
    split = make_split(store, SplitConfig(train=0.6, val=0.2, test=0.2))
    assert "folds.count: 5 folds, but only 4 patients with a lesion" in refusal(lambda: make_folds(store, split, 5))


def test_more_folds_than_patients_with_a_lesion_are_refused() -> None:
    store = store_of([0] * 10 + [1, 2, 3, 4, 5, 6])
    split = make_split(store, SplitConfig(train=0.4, val=0.3, test=0.3))
    with pytest.raises(InputError, match=r"folds\.count: 9 folds, but only \d patients with a lesion"):
        make_folds(store, split, 9)


def test_kept_folds_are_those_of_the_split(tmp_path: Path) -> None:
    store, path = store_of([*range(1, 31)]), tmp_path / "folds.json"
    split = make_split(store, SplitConfig())
    folds = lock_folds(path, store, split, 3)
    assert lock_folds(path, store, split, 3) == folds
    kept = json.loads(path.read_text())
    assert kept["validation"] == [list(fold.val) for fold in folds]
    for other in (make_split(store, SplitConfig(seed=1)), split):
        with pytest.raises(InputError, match="not the folds of this split"):
            lock_folds(path, store, other, 3 if other is not split else 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "damaged"), ("[]", "damaged"), ("{}", "damaged"), ('{"validation": [["p1"]]}', "not the folds")],
)
def test_a_changed_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    store, path = store_of([*range(1, 31)]), tmp_path / "folds.json"
    path.write_text(text)
    split: Split = make_split(store, SplitConfig())
    assert message in refusal(lambda: lock_folds(path, store, split, 3))
