"""The locked split and the training patients' statistics."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from refusals import refusal

from data_prep.cohort.normalisation import Normalisation, training_normalisation
from data_prep.cohort.split import PARTS, Split, SplitConfig, lock_split, make_split, read_split, write_split
from data_prep.cohort.store import Store, StoredPatient
from data_prep.common.errors import InputError
from data_prep.common.wording import counted
from data_prep.preprocessing.picture import PictureConfig

Build = Callable[..., Path]
Compile = Callable[..., Store]

TEN = tuple(f"p{n}" for n in range(10))


def store_of(volumes: Sequence[int], cohort_hash: str = "c0ffee") -> Store:
    """A store of one-slice patients ``p0, p1, ...`` of these lesion volumes; a split reads no pixels."""
    patients = {
        f"p{n}": StoredPatient(start=n, stop=n + 1, box=(0, 0, 1), native=(1, 1), spacing_mm=None, lesion_pixels=volume)
        for n, volume in enumerate(volumes)
    }
    blank = np.zeros((len(volumes), 1, 1), dtype=np.uint8)
    lesion_N = np.array(volumes) > 0
    return Store(Path("cache/store"), cohort_hash, PictureConfig(), blank, blank, lesion_N, patients)


def growing(patients: int, lesion_free: int = 0) -> Store:
    """Volumes 1, 2, 3, ... after ``lesion_free`` patients without, in an order that tells nothing."""
    volumes = [*([0] * lesion_free), *range(1, patients - lesion_free + 1)]
    return store_of(np.random.default_rng(1).permutation(volumes).tolist())


def members(split: Split) -> dict[str, tuple[str, ...]]:
    return {part: getattr(split, part) for part in PARTS}


# Drawing


@pytest.mark.parametrize("patients", [6, 7, 10, 13, 20, 33, 60, 100, 151])
@pytest.mark.parametrize("shares", [(0.7, 0.15, 0.15), (0.6, 0.2, 0.2), (0.5, 0.3, 0.2), (0.34, 0.33, 0.33)])
def test_parts_are_disjoint_complete_and_within_one_patient_of_their_shares(
    patients: int, shares: tuple[float, float, float]
) -> None:
    store = growing(patients)
    config = SplitConfig(**dict(zip(PARTS, shares, strict=True)), seed=patients)
    split = make_split(store, config)
    everyone = [name for part in members(split).values() for name in part]
    assert len(everyone) == len(set(everyone)) == patients
    assert set(everyone) == set(store.patients)
    assert split.cohort_hash == "c0ffee"
    for share, part in zip(shares, members(split).values(), strict=True):
        assert abs(len(part) - share * patients) < 1


def test_split_is_the_seeds_own() -> None:
    splits = [make_split(growing(40), SplitConfig(seed=seed)) for seed in range(5)]
    assert splits == [make_split(growing(40), SplitConfig(seed=seed)) for seed in range(5)]
    assert len({split.test for split in splits}) == 5
    assert [split.seed for split in splits] == list(range(5))


def test_split_does_not_hang_on_the_order_of_the_patients() -> None:
    store = growing(30)
    turned = Store(
        store.folder,
        store.cohort_hash,
        store.picture,
        store.windows_NKSS,
        store.masks_NSS,
        store.lesion_N,
        dict(reversed(store.patients.items())),
    )
    assert make_split(turned, SplitConfig()) == make_split(store, SplitConfig())


def test_every_patient_is_tested_under_some_seed() -> None:
    store = growing(20)
    tested = {name for seed in range(60) for name in make_split(store, SplitConfig(seed=seed)).test}
    assert tested == set(store.patients)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("patients", [40, 60, 120])
def test_each_part_sees_small_and_large_lesions(patients: int, seed: int) -> None:
    store = growing(patients)
    for part in members(make_split(store, SplitConfig(seed=seed))).values():
        rank = np.array([store.lesion_volume(name) for name in part]) / patients
        assert rank.min() < 0.2
        assert rank.max() > 0.8
        assert rank.mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("seed", range(8))
def test_each_part_gets_its_share_of_patients_without_lesion(seed: int) -> None:
    store = growing(60, lesion_free=20)
    split = make_split(store, SplitConfig(seed=seed))
    free = [sum(store.lesion_volume(name) == 0 for name in part) for part in members(split).values()]
    assert free == pytest.approx([14, 3, 3], abs=1)


def test_a_split_without_groups_is_what_it_was_before_there_were_any(tmp_path: Path) -> None:
    """Members, seal and bytes as recorded then."""
    store = growing(20, lesion_free=4)
    split = make_split(store, SplitConfig(seed=3))
    assert " ".join(split.train) == "p0 p12 p13 p14 p16 p17 p18 p2 p3 p4 p5 p6 p7 p9"
    assert split.val == ("p10", "p15", "p8")
    assert split.test == ("p1", "p11", "p19")
    write_split(tmp_path / "split.json", split)
    content = (tmp_path / "split.json").read_bytes()
    assert json.loads(content)["seal"] == "ba625514c89ac34c3c7ac2128c4f74d4f473121644d7f221c47bc385979cb50d"
    assert hashlib.sha256(content).hexdigest() == "9f5d083473fc0f78c41e23e3fe022ebe136bcdf328242507d66934ba84f10be5"
    official = make_split(with_official_test(store, "p3", "p17"), SplitConfig(seed=3))
    assert (official.val, official.test) == (("p0", "p16", "p18"), ("p17", "p3"))


# Scans of one person


def in_groups(store: Store, *groups: Sequence[str]) -> Store:
    return replace(store, groups={name: number for number, names in enumerate(groups, start=1) for name in names})


def grouped(scans: int, seed: int, lesion_free: int = 0) -> Store:
    """A store whose patients are scans of persons, one to four of each."""
    store, rng = growing(scans, lesion_free), np.random.default_rng(seed)
    names, groups = rng.permutation([*store.patients]).tolist(), []
    while names:
        several = int(rng.integers(1, 5))
        groups.append(names[:several])
        names = names[several:]
    return in_groups(store, *groups)


def persons(store: Store, names: Sequence[str]) -> set[int | str]:
    return {store.person(name) for name in names}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shares", [(0.7, 0.15, 0.15), (0.5, 0.3, 0.2)])
def test_scans_of_a_person_are_in_one_part_and_shares_are_of_persons(
    seed: int, shares: tuple[float, float, float]
) -> None:
    store = grouped(90, seed)
    split = make_split(store, SplitConfig(**dict(zip(PARTS, shares, strict=True)), seed=seed))
    assert sorted(name for part in members(split).values() for name in part) == sorted(store.patients)
    found = [persons(store, part) for part in members(split).values()]
    assert sum(map(len, found)) == len(set.union(*found)) == len(persons(store, [*store.patients]))
    for share, part in zip(shares, PARTS, strict=True):
        assert abs(split.patient_count(part) - share * sum(map(len, found))) < 1


@pytest.mark.parametrize("seed", range(8))
def test_each_part_sees_small_and_large_lesions_of_persons(seed: int) -> None:
    store = grouped(120, seed)
    largest: dict[int | str, float] = {}
    for name in store.patients:
        largest[store.person(name)] = max(largest.get(store.person(name), 0), store.lesion_volume(name))
    rank = {person: place / len(largest) for place, person in enumerate(sorted(largest, key=largest.__getitem__))}
    for part in members(make_split(store, SplitConfig(seed=seed))).values():
        ranks = [rank[person] for person in persons(store, part)]
        assert min(ranks) < 0.3
        assert max(ranks) > 0.7
        assert np.mean(ranks) == pytest.approx(0.5, abs=0.1)


def test_a_split_tells_its_scans_and_patients() -> None:
    store = in_groups(growing(20), ("p1", "p2", "p3"))
    split = make_split(store, SplitConfig())
    assert split.groups == (("p1", "p2", "p3"),)
    (part,) = (part for part in PARTS if "p1" in getattr(split, part))
    scans = len(getattr(split, part))
    assert (split.size(part), split.patient_count(part)) == (f"{scans} scans of {scans - 2} patients", scans - 2)
    assert all(split.size(other) == f"{len(getattr(split, other))} patients" for other in {*PARTS} - {part})


def test_scans_of_too_few_persons_are_refused() -> None:
    store = in_groups(growing(20), [f"p{n}" for n in range(20)])
    assert "no lesion (20 scans of 1 patient in all)" in refusal(lambda: make_split(store, SplitConfig()))


@pytest.mark.parametrize("before", [(), (("p1", "p2"),)])
@pytest.mark.parametrize("after", [(), (("p1", "p2", "p3"),), (("p1", "p2"), ("p3", "p4"))])
def test_a_locked_split_refuses_other_groups(
    tmp_path: Path, before: tuple[Sequence[str], ...], after: tuple[Sequence[str], ...]
) -> None:
    path = tmp_path / "split.json"
    lock_split(path, in_groups(growing(20), *before), SplitConfig())
    if before == after:
        return
    message = refusal(lambda: lock_split(path, in_groups(growing(20), *after), SplitConfig()))
    assert message == (
        f"{path}: drawn when other patients were scans of one person than cohort.json says now; restore its groups, or "
        "start a new run with --name"
    )


def test_the_seal_holds_the_groups_and_not_their_numbers(tmp_path: Path) -> None:
    path, store = tmp_path / "split.json", growing(20)
    split = lock_split(path, in_groups(store, ("p1", "p2"), ("p5", "p6")), SplitConfig())
    assert lock_split(path, in_groups(store, ("p6", "p5"), ("p2", "p1")), SplitConfig()) == split
    content = json.loads(path.read_text(encoding="utf-8"))
    for edit in ([["p1", "p2"]], []):
        path.write_text(json.dumps({**content, "groups": edit}), encoding="utf-8")
        assert "edited after the split was locked" in refusal(lambda: read_split(path))


def test_a_split_that_divides_a_person_is_none() -> None:
    with pytest.raises(ValidationError, match="p1 and p3 are scans of one person, and not in one part"):
        Split(cohort_hash="c0ffee", seed=0, train=("p1", "p2"), val=("p3",), test=("p4",), groups=(("p1", "p3"),))


# Official test patients


def with_official_test(store: Store, *names: str) -> Store:
    return replace(store, official_test=names)


@pytest.mark.parametrize("seed", range(4))
def test_exactly_the_official_test_patients_are_tested(seed: int) -> None:
    store = with_official_test(growing(40), "p3", "p17", "p21")
    split = make_split(store, SplitConfig(seed=seed))
    assert split.test == ("p17", "p21", "p3")
    everyone = [name for part in members(split).values() for name in part]
    assert sorted(everyone) == sorted(store.patients)
    assert abs(len(split.val) - 37 * 0.15 / 0.85) < 1


def test_a_split_that_tests_others_than_the_official_patients_is_refused(tmp_path: Path) -> None:
    store = growing(40)
    lock_split(tmp_path / "split.json", store, SplitConfig())
    later = with_official_test(store, "p3", "p17", "p21")
    message = refusal(lambda: lock_split(tmp_path / "split.json", later, SplitConfig()))
    assert "tests other patients than the cohort's official_test; start a new run" in message
    locked = lock_split(tmp_path / "other.json", later, SplitConfig())
    assert lock_split(tmp_path / "other.json", later, SplitConfig()) == locked


# Refusals


@pytest.mark.parametrize(("volumes", "part"), [([5], "val"), ([5, 6], "val"), ([5, 6, 7], "test")])
def test_too_few_patients_are_refused(volumes: list[int], part: str) -> None:
    message = refusal(lambda: make_split(store_of(volumes), SplitConfig()))
    assert f"the {part} part would hold 0 patients" in message
    assert f"({counted(len(volumes), 'patient')} in all); add patients, or change cohort.split" in message


@pytest.mark.parametrize("with_lesion", [0, 1, 2])
def test_part_without_lesion_is_refused(with_lesion: int) -> None:
    message = refusal(lambda: make_split(growing(20, lesion_free=20 - with_lesion), SplitConfig()))
    assert "no lesion (20 patients in all); add patients, or change cohort.split" in message


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({"train": 0.8}, "train + val + test is 1.1; the shares must add up to 1"),
        ({"train": 0.6}, "train + val + test is 0.9; the shares must add up to 1"),
        ({"train": 0.85, "val": 0.15, "test": 0.0}, "greater than 0"),
        ({"train": 1.0, "val": 0.1, "test": -0.1}, "less than 1"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"validation": 0.15}, "Extra inputs"),
    ],
)
def test_shares_that_make_no_split_are_refused(shares: dict[str, float], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SplitConfig(**shares)
    assert told in str(caught.value)


def test_shares_may_carry_rounding() -> None:
    assert SplitConfig(train=0.7, val=0.1 + 0.1, test=0.1 + 1e-9).val == pytest.approx(0.2)


# The lock


def test_split_is_written_once_and_used_again(tmp_path: Path) -> None:
    path, store = tmp_path / "run" / "split.json", growing(20)
    first = lock_split(path, store, SplitConfig(seed=3))
    assert first == make_split(store, SplitConfig(seed=3)) == read_split(path)
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert lock_split(path, store, SplitConfig(seed=3)) == first
    assert "drawn with seed 3, not 4" in refusal(lambda: lock_split(path, store, SplitConfig(seed=4)))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, written)


def test_locked_split_refuses_another_cohort(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    lock_split(path, growing(20), SplitConfig())
    content = path.read_bytes()
    volumes = list(range(1, 21))
    message = refusal(lambda: lock_split(path, store_of(volumes, "decaf"), SplitConfig()))
    assert message == (
        f"{path}: the split is locked to cohort c0ffee, but the data is decaf; "
        "restore the data, or start a new run with --name"
    )
    assert path.read_bytes() == content


@pytest.mark.parametrize("patients", [19, 21])
def test_locked_split_refuses_other_patients(tmp_path: Path, patients: int) -> None:
    path = tmp_path / "split.json"
    lock_split(path, growing(20), SplitConfig())
    assert refusal(lambda: lock_split(path, growing(patients), SplitConfig())).startswith(
        f"{path}: the split is locked"
    )


def test_locked_split_refuses_a_cohort_whose_pixels_changed(
    write_cohort: Build, compiled: Compile, tmp_path: Path
) -> None:
    root, path = write_cohort(patients=TEN, slices=("1", "2")), tmp_path / "split.json"
    store = compiled(root)
    split = lock_split(path, store, SplitConfig())
    assert lock_split(path, compiled(root), SplitConfig()) == split
    Image.fromarray(np.full((32, 32), 90, dtype=np.uint8)).save(root / "images/p3/1.png")
    message = refusal(lambda: lock_split(path, compiled(root), SplitConfig()))
    assert store.cohort_hash[:12] in message


def split_text(**changes: object) -> str:
    whole = make_split(growing(20), SplitConfig()).model_dump(mode="json")
    return json.dumps(whole | changes)


@pytest.mark.parametrize(
    "content",
    ["", split_text()[:-20], "[]", "{}", split_text(extra=1), split_text(train="p1")],
    ids=["empty", "truncated", "a list", "no fields", "a field too many", "a part that is no list"],
)
def test_damaged_split_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content, encoding="utf-8")
    message = refusal(lambda: lock_split(path, growing(20), SplitConfig()))
    assert message.startswith(f"{path}: not a readable split")
    assert message.endswith("restore it from a copy of the run")
    assert path.read_text(encoding="utf-8") == content


def test_split_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError) as caught:
        read_split(path)
    assert str(path) in str(caught.value)


def test_missing_split_is_refused(tmp_path: Path) -> None:
    assert refusal(lambda: read_split(tmp_path / "split.json")).startswith(f"{tmp_path / 'split.json'}: ")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [(("p1", "p2"), ("p2",), ("p3",)), (("p1", "p2"), ("p3",), ("p1",)), (("p1", "p1"), ("p2",), ("p3",))],
)
def test_patient_in_two_parts_is_refused(
    tmp_path: Path, train: tuple[str, ...], val: tuple[str, ...], test: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError, match="more than one part"):
        Split(cohort_hash="c0ffee", seed=0, train=train, val=val, test=test)
    path = tmp_path / "split.json"
    path.write_text(split_text(train=train, val=val, test=test), encoding="utf-8")
    assert refusal(lambda: lock_split(path, growing(20), SplitConfig())).startswith(f"{path}: not a readable split")


def moved(content: dict[str, object]) -> None:
    """A test patient becomes a training patient."""
    content["train"] = [*content["train"], content["test"][0]]
    content["test"] = content["test"][1:]


def exchanged(content: dict[str, object]) -> None:
    """A test patient and a training patient change places."""
    content["train"][0], content["test"][0] = content["test"][0], content["train"][0]


def reseeded(content: dict[str, object]) -> None:
    content["seed"] = 7


@pytest.mark.parametrize("edit", [moved, exchanged, reseeded])
@pytest.mark.parametrize("unsealed", [False, True], ids=["sealed", "seal taken off"])
def test_an_edited_split_is_refused_and_kept(
    tmp_path: Path, edit: Callable[[dict[str, object]], None], unsealed: bool
) -> None:
    path, store = tmp_path / "split.json", growing(20)
    lock_split(path, store, SplitConfig())
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    if unsealed:
        del content["seal"]
    path.write_text(json.dumps(content), encoding="utf-8")
    before = path.read_bytes()
    config = SplitConfig(seed=content["seed"])
    message = refusal(lambda: lock_split(path, store, config))
    assert message.startswith(f"{path}: edited after the split was locked")
    assert message.endswith("restore it from a copy of the run, or start a new run with --name")
    assert path.read_bytes() == before


def test_a_split_of_an_earlier_version_has_no_seal_and_is_what_its_seed_draws(tmp_path: Path) -> None:
    path, store = tmp_path / "split.json", growing(20)
    split = make_split(store, SplitConfig())
    path.write_text(split.model_dump_json(), encoding="utf-8")
    assert lock_split(path, store, SplitConfig()) == read_split(path) == split


def test_the_seal_outlives_another_way_of_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, store = tmp_path / "split.json", growing(20)
    split = lock_split(path, store, SplitConfig())
    other = make_split(store, SplitConfig(seed=3))
    monkeypatch.setattr("data_prep.cohort.split.make_split", lambda *_: other)
    assert lock_split(path, store, SplitConfig()) == split


# Normalisation


def repaint(root: Path, patients: Sequence[str], grey: int) -> None:
    for patient in patients:
        for path in (root / "images" / patient).iterdir():
            Image.fromarray(np.full((32, 32), grey, dtype=np.uint8)).save(path)


def test_statistics_are_those_of_the_training_patients_pixels_that_are_not_black(
    write_cohort: Build, compiled: Compile
) -> None:
    store = compiled(write_cohort(patients=TEN), image_size=24)
    split = make_split(store, SplitConfig())
    slices = [store.images_NSS[store.patients[name].start : store.patients[name].stop] for name in split.train]
    grey = np.concatenate(slices).ravel()
    assert (grey == 0).any()
    found = training_normalisation(store, split)
    assert found.mean == pytest.approx((grey[grey > 0].mean(),), rel=1e-12)
    assert found.std == pytest.approx((grey[grey > 0].std(),), rel=1e-12)


def test_only_training_patients_count(write_cohort: Build, compiled: Compile) -> None:
    root = write_cohort(patients=TEN)
    store = compiled(root)
    split = make_split(store, SplitConfig())
    before = training_normalisation(store, split)
    repaint(root, [*split.test, *split.val], grey=255)
    held_out = compiled(root)
    assert held_out.cohort_hash != store.cohort_hash
    assert training_normalisation(held_out, split) == before
    repaint(root, split.train[:1], grey=255)
    assert training_normalisation(compiled(root), split).mean > before.mean


@pytest.mark.parametrize("grey", [0, 80])
def test_training_slices_without_contrast_are_refused(write_cohort: Build, compiled: Compile, grey: int) -> None:
    root = write_cohort(patients=TEN)
    split = make_split(compiled(root), SplitConfig())
    repaint(root, split.train, grey)
    store = compiled(root)
    message = refusal(lambda: training_normalisation(store, split))
    assert message.startswith(f"{store.folder}: ")
    assert message.endswith("check the exported images")


@pytest.mark.parametrize("std", [0.0, -1.0])
def test_normalisation_by_nothing_is_refused(std: float) -> None:
    with pytest.raises(ValidationError, match="std"):
        Normalisation(mean=80.0, std=std)
