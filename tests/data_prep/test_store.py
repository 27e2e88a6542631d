"""The compiled cohort: what is stored, how it is opened, what an interruption leaves, what is refused."""

import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from refusals import refusal

from data_prep.cohort.layout import Cohort, Patient, scan_cohort
from data_prep.cohort.store import Store, compile_store, is_lesion, read_patient, store_folder
from data_prep.common.errors import InputError
from data_prep.preprocessing.framing import to_native, to_stored
from data_prep.preprocessing.head import Box, head_box, whole_box
from data_prep.preprocessing.picture import PictureConfig

Build = Callable[..., Path]
Compile = Callable[..., Store]
Change = Callable[[Path], object]


def disc_mask(height: int, width: int, at: tuple[int, int], radius: int) -> NDArray[np.uint8]:
    rows, columns = np.ogrid[:height, :width]
    return ((rows - at[0]) ** 2 + (columns - at[1]) ** 2 <= radius**2).astype(np.uint8)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def shares(mask_HW: NDArray[np.uint8], box: Box, side: int) -> NDArray[np.float32]:
    return to_stored(mask_HW * np.uint8(255), box, side).astype(np.float32) / np.float32(255)


# Geometry

BOXES = {
    "whole": (96, 96, whole_box(96, 96), 64),
    "whole, not square": (80, 120, whole_box(80, 120), 64),
    "inside the picture": (96, 96, Box(10, 20, 70), 64),
    "beyond the picture": (96, 96, Box(-12, -5, 110), 64),
    "beyond two other edges": (96, 96, Box(15, 12, 100), 64),
    "enlarged": (96, 96, Box(20, 25, 50), 128),
}


@pytest.mark.parametrize(("height", "width", "box", "side"), BOXES.values(), ids=BOXES.keys())
def test_mask_survives_the_way_to_the_store_and_back(height: int, width: int, box: Box, side: int) -> None:
    mask_HW = disc_mask(height, width, (45, 50), 12)
    share_HW = to_native(shares(mask_HW, box, side), box, (height, width))
    assert share_HW.shape == mask_HW.shape
    assert dice(share_HW >= 0.5, mask_HW > 0) > 0.97
    rows, columns = np.indices(mask_HW.shape)
    assert np.average(rows, weights=share_HW) == pytest.approx(45, abs=0.1)
    assert np.average(columns, weights=share_HW) == pytest.approx(50, abs=0.1)


@pytest.mark.parametrize(("height", "width", "box", "side"), BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize("radius", [1, 3, 12])
def test_soft_mask_keeps_its_area(height: int, width: int, box: Box, side: int, radius: int) -> None:
    mask_HW = disc_mask(height, width, (45, 50), radius)
    stored_area = shares(mask_HW, box, side).sum() * (box.side / side) ** 2
    assert stored_area == pytest.approx(mask_HW.sum(), rel=0.05)


def test_soft_mask_of_a_thin_line_keeps_its_area_when_shrunk_four_times() -> None:
    mask_HW = np.zeros((128, 128), dtype=np.uint8)
    mask_HW[61, 20:100] = 1
    assert shares(mask_HW, whole_box(128, 128), 32).sum() * 16 == pytest.approx(80, rel=0.05)


def test_what_lies_outside_the_crop_is_zero_on_both_ways() -> None:
    box = Box(-4, 10, 20)
    ones_HW = np.ones((32, 32), dtype=np.uint8)
    stored_SS = to_stored(ones_HW, box, 20)
    assert not stored_SS[:4].any()
    assert stored_SS[4:].all()
    native_HW = to_native(np.ones((20, 20), dtype=np.float32), box, (32, 32))
    assert native_HW[:16, 10:30].all()
    assert native_HW.sum() == 16 * 20


def test_picture_at_its_own_size_is_stored_unchanged() -> None:
    picture_HW = np.random.default_rng(0).integers(0, 256, (24, 24)).astype(np.uint8)
    assert np.array_equal(to_stored(picture_HW, whole_box(24, 24), 24), picture_HW)
    moved_SS = to_stored(picture_HW, Box(3, 5, 10), 10)
    assert np.array_equal(moved_SS, picture_HW[3:13, 5:15])


@pytest.mark.parametrize(("share", "expected"), [(0, False), (127, False), (128, True), (255, True)])
def test_half_of_the_pixel_makes_a_lesion(share: int, expected: bool) -> None:
    assert is_lesion(np.array([share], dtype=np.uint8)).tolist() == [expected]


# Content


def test_slices_of_all_patients_lie_one_after_the_other(write_cohort: Build, compiled: Compile) -> None:
    root = write_cohort(patients=("p2", "p10", "p1"), lesion=[4, 8, 12])
    seen: list[tuple[int, int]] = []
    store = compiled(root, image_size=16, on_patient=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert store.picture.image_size == 16
    assert store.cohort_hash == scan_cohort(root).hash
    assert list(store.patients) == ["p1", "p2", "p10"]
    assert [(p.start, p.stop, p.slice_count) for p in store.patients.values()] == [(0, 3, 3), (3, 6, 3), (6, 9, 3)]
    for patient in scan_cohort(root).patients:
        entry = store.patients[patient.id]
        image_ZKHW, mask_ZHW = read_patient(patient, root)
        box = whole_box(32, 32)
        assert entry.native == (32, 32)
        assert entry.box == box
        for offset in range(3):
            number = entry.start + offset
            assert np.array_equal(store.images_NSS[number], to_stored(image_ZKHW[offset, 0], box, 16))
            assert np.array_equal(store.masks_NSS[number], to_stored(mask_ZHW[offset] * np.uint8(255), box, 16))


@pytest.mark.parametrize(("crop", "expected"), [("head", head_box), ("none", lambda _: whole_box(40, 40))])
def test_crop_chooses_the_box(write_cohort: Build, compiled: Compile, crop: str, expected: Callable) -> None:
    root = write_cohort(patients=("p1",), size=40)
    image_ZHW = read_patient(scan_cohort(root).patients[0], root)[0][:, 0]
    store = compiled(root, crop=crop, image_size=24)
    assert store.patients["p1"].box == expected(image_ZHW)
    assert np.array_equal(store.images_NSS[2], to_stored(image_ZHW[2], expected(image_ZHW), 24))


def test_lesion_flags_say_which_stored_slices_hold_lesion(write_cohort: Build, compiled: Compile) -> None:
    # The last patient's one pixel is less than half of a stored pixel.
    store = compiled(write_cohort(lesion=[6, 0, 1]), image_size=8)
    assert store.lesion_N.dtype == bool
    assert store.lesion_N.tolist() == [False, True, False, False, False, False, False, False, False]
    assert [entry.lesion_pixels for entry in store.patients.values()] == [36, 0, 1]


@pytest.mark.parametrize("image_size", [8, 32, 48])
def test_lesion_pixels_are_counted_on_the_native_grid(write_cohort: Build, compiled: Compile, image_size: int) -> None:
    store = compiled(write_cohort(lesion=[3, 10, 20]), image_size=image_size, crop="head")
    assert [entry.lesion_pixels for entry in store.patients.values()] == [9, 100, 400]


def test_lesion_volume_is_in_ml_with_spacing_and_in_voxels_without(write_cohort: Build, tmp_path: Path) -> None:
    root = write_cohort(lesion=10)
    cohort = scan_cohort(root, spacing_mm={"p1": (5.0, 0.5, 0.4)})
    store = compile_store(cohort, root, tmp_path / "cache", PictureConfig(image_size=8, crop="none"))
    assert store.patients["p1"].spacing_mm == (5.0, 0.5, 0.4)
    assert store.lesion_volume("p1") == pytest.approx(100 * 5.0 * 0.5 * 0.4 / 1000)
    assert store.lesion_volume("p2") == 100


def test_mask_of_ones_and_mask_of_255_are_the_same(
    write_cohort: Build, compiled: Compile, write_picture: Callable
) -> None:
    root = write_cohort(patients=("p1",))
    before = compiled(root)
    for mask in (root / "masks" / "p1").iterdir():
        with Image.open(mask) as picture:
            write_picture(mask, np.asarray(picture) // 255)
    after = compiled(root)
    assert after.folder != before.folder
    assert before.masks_NSS.max() == 255
    assert np.array_equal(after.masks_NSS, before.masks_NSS)
    assert after.patients == before.patients


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_grey_picture_saved_in_colour_is_read_as_grey(write_cohort: Build, mode: str) -> None:
    root = write_cohort(patients=("p1",))
    patient = scan_cohort(root).patients[0]
    image_ZKHW, mask_ZHW = read_patient(patient, root)
    for name in (*patient.images, *patient.masks):
        with Image.open(root / name) as picture:
            coloured = picture.convert(mode)
        coloured.save(root / name)
    again_ZKHW, mask_again_ZHW = read_patient(patient, root)
    assert again_ZKHW.dtype == np.uint8
    assert np.array_equal(again_ZKHW, image_ZKHW)
    assert np.array_equal(mask_again_ZHW, mask_ZHW)


def test_mask_of_one_bit_is_read(write_cohort: Build) -> None:
    root = write_cohort(patients=("p1",))
    patient = scan_cohort(root).patients[0]
    _, mask_ZHW = read_patient(patient, root)
    for name in patient.masks:
        with Image.open(root / name) as picture:
            one_bit = picture.convert("1")
        one_bit.save(root / name)
    assert np.array_equal(read_patient(patient, root)[1], mask_ZHW)
    assert set(np.unique(mask_ZHW)) == {0, 1}


# Opening


def test_arrays_are_mapped_and_read_only(write_cohort: Build, compiled: Compile) -> None:
    store = compiled(write_cohort())
    for array in (store.images_NSS, store.masks_NSS):
        assert isinstance(array, np.memmap)
        assert array.mode == "r"
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


def test_store_pickles_as_a_path(write_cohort: Build, compiled: Compile) -> None:
    store = compiled(write_cohort(), image_size=64)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000 < store.images_NSS.nbytes
    again = pickle.loads(pickled)
    assert again.folder == store.folder
    assert isinstance(again.images_NSS, np.memmap)
    assert np.array_equal(again.images_NSS, store.images_NSS)
    assert again.patients == store.patients


def test_existing_store_is_opened_and_not_compiled_again(
    write_cohort: Build, compiled: Compile, snapshot: Callable, tmp_path: Path
) -> None:
    root, compilations = write_cohort(), []
    first = compiled(root, on_patient=lambda *_: compilations.append(1))
    before = snapshot(tmp_path / "cache")
    again = compiled(root, on_patient=lambda *_: compilations.append(1))
    assert snapshot(tmp_path / "cache") == before
    assert len(compilations) == 3
    assert again.folder == first.folder
    assert again.patients == first.patients


def test_other_settings_and_other_pixels_get_a_store_of_their_own(write_cohort: Build, compiled: Compile) -> None:
    root, other = write_cohort(), write_cohort("other", seed=1)
    stores = [
        compiled(root, image_size=16, crop="none"),
        compiled(root, image_size=24, crop="none"),
        compiled(root, image_size=16, crop="head"),
        compiled(other, image_size=16, crop="none"),
        *(compiled(root, **{part: True}) for part in ("remove_couch", "strip_skull")),
    ]
    assert len({store.folder for store in stores}) == 6
    assert [store.images_NSS.shape for store in stores] == [(9, size, size) for size in (16, 24, 16, 16, 16, 16)]


# What was removed


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        (PictureConfig(), "d82bf86a414e5c5a-512-head"),
        (
            PictureConfig(image_size=96, crop="none", strip_skull=True, intensity_window="brain"),
            "42a4bce2bfa949ab-96-none",
        ),
    ],
)
def test_stores_keep_the_names_that_they_had_while_there_was_an_alignment(picture: PictureConfig, name: str) -> None:
    patient = Patient(id="p1", images=("images/p1/1.png",), masks=("masks/p1/1.png",), hash="0")
    cohort = Cohort(name="c", patients=(patient,), hash="1")
    assert store_folder(cohort, Path("cache"), picture).name == name


def rewrite_alignment(folder: Path, value: object) -> None:
    """The index as it was written while there was an alignment."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    patients = {name: {**entry, "alignment": None} for name, entry in index["patients"].items()}
    rewrite_index(folder, picture={**index["picture"], "align_midline": value}, patients=patients)


def test_a_store_that_was_made_without_the_former_alignment_is_reused(write_cohort: Build, compiled: Compile) -> None:
    root, compilations = write_cohort(), []
    first = compiled(root)
    rewrite_alignment(first.folder, False)
    again = compiled(root, on_patient=lambda *_: compilations.append(1))
    assert not compilations
    assert (again.folder, again.picture, again.patients) == (first.folder, first.picture, first.patients)


def test_a_store_that_was_made_with_the_former_alignment_is_refused(write_cohort: Build, compiled: Compile) -> None:
    folder = compiled(write_cohort()).folder
    rewrite_alignment(folder, True)
    said = refusal(lambda: Store.open(folder))
    assert said.startswith(f"{folder}: ")
    assert "align_midline: volumes are no longer turned upright" in said


# Interruption

KILLED = """
import os, sys
from pathlib import Path
from data_prep.cohort.layout import scan_cohort
from data_prep.preprocessing.picture import PictureConfig
from data_prep.cohort.store import compile_store
root, cache = Path(sys.argv[1]), Path(sys.argv[2])
kill = lambda done, total: os._exit(9) if done == 2 else None
compile_store(scan_cohort(root), root, cache, PictureConfig(image_size=16, crop="none"), on_patient=kill)
"""


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_compile_leaves_nothing_and_a_rerun_completes(
    write_cohort: Build, compiled: Compile, tmp_path: Path, error: type[BaseException]
) -> None:
    root = write_cohort()

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise error

    with pytest.raises(error):
        compiled(root, on_patient=stop)
    assert list((tmp_path / "cache").iterdir()) == []
    assert compiled(root).lesion_N.sum() == 3


def test_killed_compile_leaves_no_store_and_a_rerun_completes(
    write_cohort: Build, compiled: Compile, tmp_path: Path
) -> None:
    root, cache = write_cohort(), tmp_path / "cache"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(root), str(cache)], check=False, timeout=60)
    assert killed.returncode == 9
    assert not store_folder(scan_cohort(root), cache, PictureConfig(image_size=16, crop="none")).exists()
    store = compiled(root)
    assert store.folder == store_folder(scan_cohort(root), cache, PictureConfig(image_size=16, crop="none"))
    assert store.lesion_N.sum() == 3
    assert (store.images_NSS.max(axis=(1, 2)) > 0).all()


def test_bad_slice_leaves_no_store_and_a_mended_one_compiles(
    write_cohort: Build, compiled: Compile, tmp_path: Path
) -> None:
    root = write_cohort()
    mask = root / "masks/p10/10.png"
    whole = mask.read_bytes()
    mask.write_bytes(b"")
    refusal(lambda: compiled(root))
    assert list((tmp_path / "cache").iterdir()) == []
    mask.write_bytes(whole)
    assert compiled(root).images_NSS.shape == (9, 16, 16)


# Refusals


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save(path: Path, pixels: NDArray) -> None:
    Image.fromarray(pixels).save(path)


def grey_levels(*values: int) -> NDArray[np.uint8]:
    return np.resize(np.array(values, dtype=np.uint8), (32, 32))


BAD_SLICES: dict[str, tuple[str, Change, str]] = {
    "zero-byte image": ("images/p2/2.png", lambda path: path.write_bytes(b""), "cannot be decoded .*; replace"),
    "zero-byte mask": ("masks/p2/2.png", lambda path: path.write_bytes(b""), "cannot be decoded .*; replace"),
    "truncated image": ("images/p2/2.png", truncate, "cannot be decoded .*; replace"),
    "text": ("images/p2/2.png", lambda path: path.write_text("not a picture"), "cannot be decoded .*; replace"),
    "16-bit image": (
        "images/p2/2.png",
        lambda path: save(path, np.full((32, 32), 1000, dtype=np.uint16)),
        "I;16 pixels; window the scan to 8-bit",
    ),
    "mask of three values": (
        "masks/p2/2.png",
        lambda path: save(path, grey_levels(0, 128, 255)),
        "mask values 0, 128, 255.*; a mask holds 0 and 255, or 0 and 1",
    ),
    "mask of 0, 1 and 255": (
        "masks/p2/2.png",
        lambda path: save(path, grey_levels(0, 1, 255)),
        "mask values 0, 1, 255.*; a mask holds",
    ),
    "mask of many values": (
        "masks/p2/2.png",
        lambda path: save(path, np.arange(1024).reshape(32, 32).astype(np.uint8)),
        r"mask values 0, 1, 2, 3, 4, 5\.\.\.; a mask holds",
    ),
    "image of another size": (
        "images/p2/10.png",
        lambda path: save(path, np.zeros((30, 40), dtype=np.uint8)),
        "40x30 pixels, but 32x32 in .*images/p2/1.png; all slices of a patient need one size",
    ),
    "mask of another size": (
        "masks/p2/1.png",
        lambda path: save(path, np.zeros((40, 30), dtype=np.uint8)),
        "30x40 pixels, but 32x32 in .*images/p2/1.png; all slices of a patient need one size",
    ),
}


@pytest.mark.parametrize(("name", "damage", "remedy"), BAD_SLICES.values(), ids=BAD_SLICES.keys())
def test_bad_slice_names_the_file_and_the_remedy(
    write_cohort: Build, compiled: Compile, name: str, damage: Change, remedy: str
) -> None:
    root = write_cohort()
    damage(root / name)
    message = refusal(lambda: compiled(root))
    assert message.startswith(f"{root / name}: ")
    with pytest.raises(InputError, match=remedy):
        compiled(root)


def test_pictures_too_small_for_a_head_are_refused(
    write_cohort: Build, compiled: Compile, write_picture: Callable
) -> None:
    root = write_cohort(patients=("p1",))
    for part in ("images", "masks"):
        write_picture(root / part / "p2" / "1.png", np.full((1, 1), 255, dtype=np.uint8))
    message = refusal(lambda: compiled(root))
    assert message.startswith(f"{root / 'images/p2/1.png'}: 1 x 1 x 1 voxels; a slice has at least 16 x 16")


def test_patients_may_differ_in_size_and_need_not_be_square(
    write_cohort: Build, compiled: Compile, write_picture: Callable
) -> None:
    root = write_cohort(patients=("p1",))
    for part in ("images", "masks"):
        write_picture(root / part / "p2" / "1.png", np.full((30, 50), 255, dtype=np.uint8))
    entry = compiled(root).patients["p2"]
    assert entry.native == (30, 50)
    assert entry.box == whole_box(30, 50)
    assert entry.lesion_pixels == 1500


def test_damaged_png_header_is_refused(write_cohort: Build, compiled: Compile) -> None:
    root = write_cohort()
    damaged = bytearray((root / "images/p1/1.png").read_bytes())
    damaged[11] = 0  # length of the header chunk
    (root / "images/p1/1.png").write_bytes(bytes(damaged))
    with pytest.raises(InputError) as caught:
        compiled(root)
    assert str(root / "images/p1/1.png") in str(caught.value)


def rewrite_index(folder: Path, **changes: object) -> None:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    (folder / "index.json").write_text(json.dumps(index | changes), encoding="utf-8")


DAMAGES: dict[str, Change] = {
    "array gone": lambda folder: (folder / "images.npy").unlink(),
    "flags gone": lambda folder: (folder / "lesion.npy").unlink(),
    "array truncated": lambda folder: truncate(folder / "masks.npy"),
    "index truncated": lambda folder: truncate(folder / "index.json"),
    "index empty": lambda folder: (folder / "index.json").write_bytes(b""),
    "index not text": lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe"),
    "other format": lambda folder: rewrite_index(folder, format=99),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_store_is_refused_and_made_anew_once_deleted(
    write_cohort: Build, compiled: Compile, damage: Change
) -> None:
    root = write_cohort()
    folder = compiled(root).folder
    damage(folder)
    message = refusal(lambda: compiled(root))
    assert message.startswith(f"{folder}: ")
    assert "delete it" in message
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert compiled(root).images_NSS.shape == (9, 16, 16)


UNNOTICED: dict[str, Change] = {
    "array empty": lambda folder: (folder / "images.npy").write_bytes(b""),
    "index without patients": lambda folder: (folder / "index.json").write_text('{"format": 1}'),
    "index a list": lambda folder: (folder / "index.json").write_text("[]"),
    "index of broken patients": lambda folder: rewrite_index(folder, patients={"p1": {}}),
}


@pytest.mark.parametrize("damage", UNNOTICED.values(), ids=UNNOTICED.keys())
def test_store_damaged_otherwise_is_refused_too(write_cohort: Build, compiled: Compile, damage: Change) -> None:
    folder = compiled(write_cohort()).folder
    damage(folder)
    assert "delete it" in refusal(lambda: Store.open(folder))


def test_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    assert refusal(lambda: Store.open(tmp_path / "nowhere")).startswith(f"{tmp_path / 'nowhere'}: ")


def test_spacing_added_to_the_manifest_reaches_the_volumes(write_cohort: Build, tmp_path: Path) -> None:
    root = write_cohort(patients=("p1",), lesion=10)
    for spacing_mm in ({}, {"p1": (5.0, 1.0, 1.0)}):
        cohort = scan_cohort(root, spacing_mm=spacing_mm)
        store = compile_store(cohort, root, tmp_path / "cache", PictureConfig(image_size=8, crop="none"))
    assert math.isclose(store.lesion_volume("p1"), 0.5)
