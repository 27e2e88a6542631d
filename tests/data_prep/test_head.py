"""The box around the head: on discs whose place is known, and on real scans."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.cohort.layout import Patient
from data_prep.cohort.store import read_patient
from data_prep.preprocessing.head import Box, head_box, whole_box

REAL = Path(__file__).parents[3] / "shared/data/phe_sich"


def disc(height: int, width: int, centre: tuple[int, int], radius: int, grey: int = 120) -> NDArray[np.uint8]:
    rows, columns = np.ogrid[:height, :width]
    inside_HW = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    return np.where(inside_HW, grey, 0).astype(np.uint8)


def volume(slice_HW: NDArray[np.uint8], slices: int = 6) -> NDArray[np.uint8]:
    return np.repeat(slice_HW[None], slices, axis=0)


def holds(box: Box, where_HW: NDArray[np.bool_]) -> bool:
    rows, columns = np.nonzero(where_HW)
    return (
        box.top <= rows.min()
        and rows.max() < box.top + box.side
        and box.left <= columns.min()
        and columns.max() < box.left + box.side
    )


def largest_region(where_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels_HW, _ = ndimage.label(where_HW)
    return labels_HW == 1 + np.argmax(np.bincount(labels_HW.ravel())[1:])


def centre(box: Box) -> tuple[float, float]:
    return box.top + box.side / 2, box.left + box.side / 2


@pytest.mark.parametrize(
    ("height", "width", "at", "radius"),
    [
        (128, 128, (64, 64), 40),
        (128, 128, (50, 80), 30),
        (128, 128, (85, 40), 25),
        (96, 160, (48, 110), 35),
        (160, 96, (40, 45), 30),
    ],
)
def test_box_fits_the_disc(height: int, width: int, at: tuple[int, int], radius: int) -> None:
    head_HW = disc(height, width, at, radius)
    box = head_box(volume(head_HW))
    assert holds(box, head_HW > 0)
    assert box.side <= 1.06 * (2 * radius + 1) + 2
    assert centre(box) == pytest.approx((at[0] + 0.5, at[1] + 0.5), abs=1.0)


def test_box_is_square_around_the_longer_side() -> None:
    head_HW = np.zeros((100, 100), dtype=np.uint8)
    head_HW[20:80, 40:70] = 150
    box = head_box(volume(head_HW))
    assert holds(box, head_HW > 0)
    assert 60 < box.side <= 66
    assert centre(box) == pytest.approx((50, 55), abs=1.0)


def test_margin_is_a_share_of_the_side_on_each_side() -> None:
    head_ZHW = volume(disc(200, 200, (100, 100), 50))
    bare, wide = head_box(head_ZHW, margin=0.0), head_box(head_ZHW, margin=0.2)
    assert wide.side - bare.side == pytest.approx(2 * 0.2 * 101, abs=3)
    assert centre(wide) == pytest.approx(centre(bare), abs=1.0)


def test_couch_and_head_holder_are_cut_off() -> None:
    head_HW = disc(200, 200, (90, 100), 60)
    couch_HW = head_HW.copy()
    couch_HW[185:188, :] = 200
    couch_HW[90:186, 10:13] = 200
    couch_HW[149:186, 99:102] = 200
    box, bare = head_box(volume(couch_HW)), head_box(volume(head_HW))
    assert box.side == pytest.approx(bare.side, abs=2)
    assert centre(box) == pytest.approx(centre(bare), abs=1.0)


@pytest.mark.parametrize("arm", [(170, 20), (20, 30)])
def test_largest_region_is_the_head(arm: tuple[int, int]) -> None:
    head_HW = disc(200, 200, (90, 110), 45)
    arm_HW = np.maximum(head_HW, disc(200, 200, arm, 15, grey=250))
    assert head_box(volume(arm_HW)) == head_box(volume(head_HW))


@pytest.mark.parametrize("blank", [1, 4, 12])
def test_blank_end_slices_change_nothing(blank: int) -> None:
    head_ZHW = volume(disc(128, 128, (60, 70), 40))
    black_ZHW = np.zeros((blank, 128, 128), dtype=np.uint8)
    assert head_box(np.concatenate([black_ZHW, head_ZHW, black_ZHW])) == head_box(head_ZHW)


def test_speck_in_one_slice_of_many_changes_nothing() -> None:
    head_ZHW = volume(disc(128, 128, (60, 60), 30), slices=10)
    speck_ZHW = head_ZHW.copy()
    speck_ZHW[0, 30:110, 90:125] = 255
    assert head_box(speck_ZHW) == head_box(head_ZHW)


def test_slices_of_a_head_that_narrows_are_all_inside() -> None:
    slices = [disc(128, 128, (64, 60 + n), 45 - 4 * n) for n in range(8)]
    box = head_box(np.stack(slices))
    assert all(holds(box, slice_HW > 0) for slice_HW in slices[1:])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 60), (60, 41)])
@pytest.mark.parametrize("grey", [0, 23])
def test_picture_without_a_head_is_kept_whole(height: int, width: int, grey: int) -> None:
    assert head_box(np.full((5, height, width), grey, dtype=np.uint8)) == whole_box(height, width)


def test_threshold_is_the_darkest_grey_of_a_head() -> None:
    dim_ZHW = volume(disc(128, 128, (50, 70), 30, grey=24))
    assert head_box(dim_ZHW).side < 128
    assert head_box(dim_ZHW, threshold=25) == whole_box(128, 128)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(64, 64, (0, 0, 64)), (40, 60, (-10, 0, 60)), (60, 40, (0, -10, 60)), (60, 41, (0, -10, 60))],
)
def test_whole_box_is_the_smallest_square_around_the_picture(
    height: int, width: int, expected: tuple[int, int, int]
) -> None:
    assert whole_box(height, width) == Box(*expected)


@pytest.mark.parametrize(
    ("at", "edge"),
    [((40, 64), "top"), ((88, 64), "bottom"), ((64, 40), "left"), ((64, 88), "right")],
)
def test_head_that_reaches_the_edge_gets_a_box_beyond_the_picture(at: tuple[int, int], edge: str) -> None:
    head_HW = disc(128, 128, at, 40)
    box = head_box(volume(head_HW))
    assert holds(box, head_HW > 0)
    beyond = {
        "top": box.top < 0,
        "bottom": box.top + box.side > 128,
        "left": box.left < 0,
        "right": box.left + box.side > 128,
    }
    assert [name for name, reached in beyond.items() if reached] == [edge]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real cohort is not at {REAL}")
@pytest.mark.parametrize("name", ["patient_0103", "patient_0162", "patient_0165"])
def test_box_on_a_real_scan_holds_every_lesion_pixel_and_the_skull(name: str) -> None:
    names = sorted(path.name for path in (REAL / "images" / name).iterdir())
    patient = Patient(
        id=name,
        images=tuple(f"images/{name}/{file}" for file in names),
        masks=tuple(f"masks/{name}/{file}" for file in names),
        hash="",
    )
    image_ZKHW, mask_ZHW = read_patient(patient, REAL)
    image_ZHW = image_ZKHW[:, 0]
    box = head_box(image_ZHW)
    assert mask_ZHW.any()
    assert holds(box, mask_ZHW.any(axis=0))
    assert holds(box, largest_region((image_ZHW == 255).mean(axis=0) > 0.2))
    assert box.side < 0.9 * image_ZHW.shape[1]
