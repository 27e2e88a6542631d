"""The cohort folder and its manifest: order, pairing, hash, refusals; a user's folder is never written to."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refusal

from data_prep.cohort.layout import (
    MANIFEST,
    Cohort,
    check_patients,
    has_layout,
    natural_key,
    open_cohort,
    scan_cohort,
    write_manifest,
)
from data_prep.cohort.store import compile_store
from data_prep.common.errors import InputError
from data_prep.phantom.cohort import TRUTH, build_phantom_cohort
from data_prep.phantom.config import PhantomConfig
from data_prep.preprocessing.picture import PictureConfig

Build = Callable[..., Path]
Change = Callable[[Path], object]


def repaint(path: Path, pixel: tuple[int, int] = (16, 16), value: int = 7) -> None:
    with Image.open(path) as picture:
        pixels = np.array(picture)
    assert pixels[pixel] != value
    pixels[pixel] = value
    Image.fromarray(pixels).save(path)


def swap(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    assert first != second
    one.write_bytes(second)
    other.write_bytes(first)


def rename_slice(root: Path, old: str, new: str) -> None:
    for folder in ("images", "masks"):
        (root / folder / "p1" / old).rename(root / folder / "p1" / new)


def copy_patient(root: Path, patient: str, name: str) -> None:
    for folder in ("images", "masks"):
        shutil.copytree(root / folder / patient, root / folder / name)


def remove_patient(root: Path, patient: str) -> None:
    for folder in ("images", "masks"):
        shutil.rmtree(root / folder / patient)


# Order and pairing


@pytest.mark.parametrize(
    "ordered",
    [
        ["slice1", "slice2", "slice10", "slice100"],
        ["1", "2", "9", "10", "11"],
        ["001", "002", "010", "100"],
        ["IM-2-3", "IM-2-10", "IM-10-1", "IM-10-2"],
        ["2", "10", "10a", "a9", "a10", "b", "b1"],
        ["a1", "B2", "c3"],
        ["01", "1"],
    ],
)
def test_names_sort_naturally(ordered: list[str]) -> None:
    for seed in range(5):
        assert sorted(random.Random(seed).sample(ordered, len(ordered)), key=natural_key) == ordered


def test_slices_and_patients_are_in_natural_order_and_masks_follow(write_cohort: Build) -> None:
    root = write_cohort(patients=("p10", "p2", "q1"), slices=("slice10", "slice9", "2", "slice2b", "slice2"))
    cohort = scan_cohort(root)
    assert [patient.id for patient in cohort.patients] == ["p2", "p10", "q1"]
    order = ("2", "slice2", "slice2b", "slice9", "slice10")
    assert cohort.patients[0].images == tuple(f"images/p2/{name}.png" for name in order)
    assert cohort.patients[0].masks == tuple(f"masks/p2/{name}.png" for name in order)
    assert cohort.slice_count == 15


def test_order_of_names_that_differ_in_case_does_not_hang_on_the_directory() -> None:
    assert sorted(["a1", "A1"], key=natural_key) == sorted(["A1", "a1"], key=natural_key)


@pytest.mark.parametrize("images", ["images", "image"])
@pytest.mark.parametrize("masks", ["masks", "mask"])
def test_both_spellings_of_the_folders_are_taken(write_cohort: Build, images: str, masks: str) -> None:
    root = write_cohort(folders=(images, masks))
    assert has_layout(root)
    patient = scan_cohort(root).patients[0]
    assert patient.images[0] == f"{images}/p1/1.png"
    assert patient.masks[0] == f"{masks}/p1/1.png"


def test_spelling_of_the_folders_is_not_part_of_the_hash(write_cohort: Build) -> None:
    one, other = write_cohort("one"), write_cohort("other", folders=("image", "mask"))
    assert scan_cohort(one).hash == scan_cohort(other).hash


def test_mask_may_have_another_suffix_than_its_image(write_cohort: Build) -> None:
    root = write_cohort()
    mask = root / "masks" / "p1" / "2.png"
    with Image.open(mask) as picture:
        picture.save(mask.with_suffix(".TIF"), format="TIFF")
    mask.unlink()
    assert scan_cohort(root).patients[0].masks[1] == "masks/p1/2.TIF"


def test_hidden_files_and_files_of_other_kinds_are_ignored(write_cohort: Build) -> None:
    root = write_cohort()
    before = scan_cohort(root)
    for name in (".DS_Store", "images/.DS_Store", "images/p1/._1.png", "masks/p1/.2.png", "images/p1/notes.txt"):
        (root / name).write_text("not a picture")
    (root / "images" / "README.png").write_text("beside the patients")
    for name in ("images/.ipynb_checkpoints", "masks/.cache"):
        (root / name).mkdir()
    assert scan_cohort(root) == before


def test_folder_without_images_has_no_layout(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").write_text("a file")
    assert not has_layout(tmp_path)
    assert not has_layout(tmp_path / "nowhere")


def test_metadata_is_kept_and_the_name_is_the_folders_unless_told(write_cohort: Build) -> None:
    root = write_cohort()
    assert scan_cohort(root).name == "cohort"
    told = scan_cohort(
        root, name="ours", synthetic=True, window="brain", source="here", licence="CC0", spacing_mm={"p2": (5, 1, 1)}
    )
    assert (told.name, told.synthetic, told.window, told.source, told.licence) == (
        "ours",
        True,
        "brain",
        "here",
        "CC0",
    )
    assert [patient.spacing_mm for patient in told.patients] == [None, (5.0, 1.0, 1.0), None]
    assert told.hash == scan_cohort(root).hash
    everyone = scan_cohort(root, spacing_mm=(5.0, 0.5, 0.4)).patients
    assert [patient.spacing_mm for patient in everyone] == [(5.0, 0.5, 0.4)] * 3


# Refusals


BROKEN_LAYOUTS: dict[str, tuple[Change, str, str]] = {
    "missing root": (shutil.rmtree, ".", "no such folder; expected images/"),
    "no layout": (
        lambda root: (root / "images").rename(root / "scans"),
        ".",
        "no folder images or image; expected images/",
    ),
    "no masks": (
        lambda root: shutil.rmtree(root / "masks"),
        ".",
        "no folder masks or mask; expected images/",
    ),
    "no patients": (
        lambda root: [shutil.rmtree(folder) for folder in (root / "images").iterdir()],
        "images",
        "no patient folders; expected images/",
    ),
    "empty patient": (lambda root: (root / "images" / "p3").mkdir(), "images/p3", "add them or remove the folder"),
    "image without mask": (
        lambda root: (root / "masks/p2/10.png").unlink(),
        "images/p2/10.png",
        "masks/p2/10.png; add one",
    ),
    "patient without masks": (
        lambda root: shutil.rmtree(root / "masks/p2"),
        "images/p2/1.png",
        "masks/p2/1.png; add one",
    ),
    "mask without image": (
        lambda root: (root / "images/p2/10.png").unlink(),
        "masks/p2/10.png",
        "images/p2/10.png; add or remove it",
    ),
    "mask folder without images": (
        lambda root: shutil.rmtree(root / "images/p2"),
        "masks/p2",
        "add .*images/p2",
    ),
    "two images for one slice": (
        lambda root: shutil.copy(root / "images/p2/2.png", root / "images/p2/2.jpg"),
        "images/p2/2.",
        "second file for slice 2; keep one",
    ),
    "two masks for one slice": (
        lambda root: shutil.copy(root / "masks/p2/2.png", root / "masks/p2/2.PNG"),
        "masks/p2/2.",
        "second file for slice 2; keep one",
    ),
    "folder in the place of a slice": (
        lambda root: [(root / part / "p2/3.png").mkdir() for part in ("images", "masks")],
        "images/p2/3.png",
        "cannot be read .*; restore it",
    ),
}


@pytest.mark.parametrize(("damage", "culprit", "remedy"), BROKEN_LAYOUTS.values(), ids=BROKEN_LAYOUTS.keys())
def test_broken_layout_names_the_file_and_the_remedy(
    write_cohort: Build, tmp_path: Path, damage: Change, culprit: str, remedy: str
) -> None:
    root = write_cohort()
    damage(root)
    message = refusal(lambda: open_cohort(root, tmp_path / "cache"))
    assert message.startswith(str(root / culprit))
    with pytest.raises(InputError, match=remedy):
        scan_cohort(root)
    assert not (tmp_path / "cache").exists()


# Hash


HASH_CHANGES: dict[str, Change] = {
    "image pixel": lambda root: repaint(root / "images/p1/1.png"),
    "mask pixel": lambda root: repaint(root / "masks/p1/1.png", value=255),
    "slice name": lambda root: rename_slice(root, "1.png", "0.png"),
    "patient name": lambda root: [(root / part / "p1").rename(root / part / "p0") for part in ("images", "masks")],
    "order of slices": lambda root: swap(root / "images/p1/1.png", root / "images/p1/10.png"),
    "image of another patient": lambda root: swap(root / "images/p1/1.png", root / "images/p2/1.png"),
    "slice gone": lambda root: [(root / part / "p1/10.png").unlink() for part in ("images", "masks")],
    "patient gone": lambda root: remove_patient(root, "p1"),
    "patient added": lambda root: copy_patient(root, "p1", "p3"),
}


@pytest.mark.parametrize("change", HASH_CHANGES.values(), ids=HASH_CHANGES.keys())
def test_hash_changes_with_pixels_names_and_order(write_cohort: Build, change: Change) -> None:
    root = write_cohort()
    before = scan_cohort(root).hash
    change(root)
    assert scan_cohort(root).hash != before


def test_hash_does_not_change_with_location_or_file_times(write_cohort: Build, tmp_path: Path) -> None:
    root = write_cohort()
    before = scan_cohort(root)
    moved = shutil.copytree(root, tmp_path / "elsewhere" / "other name")
    for path in moved.rglob("*"):
        os.utime(path, (1e9, 1e9))
    after = scan_cohort(moved)
    assert after.hash == before.hash
    assert after.patients == before.patients


def test_change_in_one_patient_keeps_the_hash_of_the_others(write_cohort: Build) -> None:
    root = write_cohort()
    before = scan_cohort(root).patients
    repaint(root / "images/p2/1.png")
    after = scan_cohort(root).patients
    assert [old.hash == new.hash for old, new in zip(before, after, strict=True)] == [True, False, True]


# Manifest


def test_folder_of_the_user_is_never_written_to(
    write_cohort: Build, snapshot: Callable[[Path], dict], tmp_path: Path
) -> None:
    root, cache = write_cohort(), tmp_path / "cache"
    before = snapshot(root)
    for _ in range(2):
        cohort = open_cohort(root, cache)
        compile_store(cohort, root, cache, PictureConfig(image_size=8, crop="head"))
    repaint(root / "images/p1/1.png")
    changed = snapshot(root)
    refusal(lambda: open_cohort(root, cache))
    assert snapshot(root) == changed
    assert changed.keys() == before.keys()
    assert [name for name in before if before[name] != changed[name]] == ["images/p1/1.png"]


def test_manifest_is_made_in_the_cache_once_and_used_again(write_cohort: Build, tmp_path: Path) -> None:
    root, manifest = write_cohort(), tmp_path / "cache" / "deep" / MANIFEST
    first = open_cohort(root, manifest.parent)
    told = json.loads(manifest.read_text(encoding="utf-8"))
    assert Cohort.model_validate(told) == first == scan_cohort(root)
    manifest.write_text(json.dumps(told | {"name": "renamed by hand"}), encoding="utf-8")
    written = manifest.stat().st_mtime_ns
    assert open_cohort(root, manifest.parent).name == "renamed by hand"
    assert manifest.stat().st_mtime_ns == written


def test_manifest_that_came_with_the_cohort_comes_first(write_cohort: Build, tmp_path: Path) -> None:
    root = write_cohort()
    ours = scan_cohort(root, name="ours", synthetic=True, spacing_mm={"p1": (5.0, 0.5, 0.5)})
    theirs = open_cohort(root, tmp_path / "old cache")
    write_manifest(ours, root)
    assert open_cohort(root, tmp_path / "cache") == ours
    assert not (tmp_path / "cache").exists()
    assert open_cohort(root, tmp_path / "old cache") == ours != theirs


CHANGED_COHORTS: dict[str, tuple[Change, str]] = {
    "changed": (lambda root: repaint(root / "images/p2/1.png"), "(changed: p2)"),
    "added": (lambda root: copy_patient(root, "p1", "p3"), "(added: p3)"),
    "gone": (lambda root: remove_patient(root, "p10"), "(gone: p10)"),
    "all three": (
        lambda root: (
            repaint(root / "masks/p1/10.png", value=255),
            copy_patient(root, "p10", "p11"),
            remove_patient(root, "p2"),
        ),
        "(added: p11; gone: p2; changed: p1)",
    ),
    "many, in natural order": (
        lambda root: [copy_patient(root, "p1", name) for name in ("q10", "q2", "q1", "q11", "q3")],
        "(added: q1, q2, q3 and 2 more)",
    ),
}


@pytest.mark.parametrize(("change", "told"), CHANGED_COHORTS.values(), ids=CHANGED_COHORTS.keys())
@pytest.mark.parametrize("place", ["cohort", "cache"])
def test_changed_cohort_is_refused_by_name(
    write_cohort: Build, tmp_path: Path, change: Change, told: str, place: str
) -> None:
    root = write_cohort()
    write_manifest(scan_cohort(root), tmp_path / place)
    change(root)
    message = refusal(lambda: open_cohort(root, tmp_path / "cache"))
    assert message.startswith(f"{root}: ")
    assert told in message
    assert message.endswith(
        f"restore the files, or delete {tmp_path / place / MANIFEST} to accept them as a new cohort"
    )


def test_changed_cohort_is_accepted_once_its_manifest_is_deleted(write_cohort: Build, tmp_path: Path) -> None:
    root, cache = write_cohort(), tmp_path / "cache"
    before = open_cohort(root, cache)
    repaint(root / "images/p2/1.png")
    (cache / MANIFEST).unlink()
    assert open_cohort(root, cache).hash != before.hash


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe\x00", b"{}", "without hash", "with a field too many"],
    ids=repr,
)
@pytest.mark.parametrize("place", ["cohort", "cache"])
def test_damaged_manifest_is_refused_and_kept(
    write_cohort: Build, tmp_path: Path, content: bytes | str, place: str
) -> None:
    root = write_cohort()
    whole = scan_cohort(root).model_dump(mode="json")
    if content == "without hash":
        content = json.dumps({key: whole[key] for key in whole if key != "hash"}).encode()
    elif content == "with a field too many":
        content = json.dumps(whole | {"extra": 1}).encode()
    manifest = tmp_path / place / MANIFEST
    manifest.parent.mkdir(exist_ok=True)
    manifest.write_bytes(content)
    message = refusal(lambda: open_cohort(root, tmp_path / "cache"))
    assert message.startswith(f"{manifest}: not a cohort manifest")
    assert message.endswith("delete it to have it made anew")
    assert manifest.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "images").rename(root / "image"),
        lambda root: rename_slice(root, "1.png", "1.PNG"),
    ],
    ids=["folder respelled", "suffix respelled"],
)
def test_files_named_by_an_opened_cohort_exist(write_cohort: Build, tmp_path: Path, change: Change) -> None:
    root, cache = write_cohort(), tmp_path / "cache"
    open_cohort(root, cache)
    change(root)
    cohort = open_cohort(root, cache)
    named = [name for patient in cohort.patients for name in (*patient.images, *patient.masks)]
    assert [name for name in named if not (root / name).is_file()] == []


# The synthetic cohort


def test_finished_phantom_without_a_manifest_is_labelled_and_not_built_again(
    write_cohort: Build, tmp_path: Path
) -> None:
    root, built = write_cohort(), []
    truth = {"patients": [{"patient": name, "spacing_mm": [5.0, 4.0, 3.0]} for name in ("p1", "p2", "p10")]}
    (root / TRUTH).write_text(json.dumps(truth), encoding="utf-8")
    build_phantom_cohort(root, PhantomConfig(), 1, lambda *done: built.append(done))
    assert built == []
    cohort = open_cohort(root, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert cohort.synthetic
    assert "synthetic" in cohort.name
    assert [patient.spacing_mm for patient in cohort.patients] == [(5.0, 4.0, 3.0)] * 3


@pytest.mark.parametrize("part", ["images", "masks"])
def test_files_that_change_after_the_cohort_was_opened_are_noticed_in_the_patients_asked_for(
    write_cohort: Callable[..., Path], part: str
) -> None:
    root = write_cohort(patients=("p1", "p2", "p3"))
    cohort = scan_cohort(root)
    check_patients(cohort, root, ["p1", "p2", "p3"])
    file = next((root / part / "p2").iterdir())
    repaint(file)
    check_patients(cohort, root, ["p1", "p3"])
    message = refusal(lambda: check_patients(cohort, root, ["p1", "p2"]))
    assert message == f"{root}: files of p2 changed while the run was going on; restore them and run it again"
    file.unlink()
    assert "cannot be read" in refusal(lambda: check_patients(cohort, root, ["p2"]))


def test_official_test_patients_must_be_in_the_cohort(write_cohort: Build, tmp_path: Path) -> None:
    root = write_cohort(patients=("p1", "p2"))
    whole = scan_cohort(root).model_dump(mode="json")
    for names in (["p1"], ["p1", "p9"]):
        (root / MANIFEST).write_text(json.dumps(whole | {"official_test": names}))
        if "p9" in names:
            assert "not a cohort manifest" in refusal(lambda: open_cohort(root, tmp_path / "cache"))
        else:
            assert open_cohort(root, tmp_path / "cache").official_test == ("p1",)
