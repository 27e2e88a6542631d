"""Couch and skull, on heads drawn from formulas: what must stay and what must go."""

from collections.abc import Callable

import numpy as np
import pytest
from heads import BRAIN, SHAPE, SKIN, VOXEL_MM, DrawnHead, draw_head
from numpy.typing import NDArray
from pydantic import ValidationError

from data_prep.preprocessing.coarse import HEAD_LENGTH_MM, SPAN_MM, THICK_MM, filled, largest_part, voxel_size
from data_prep.preprocessing.couch import head_mask
from data_prep.preprocessing.framing import Framing, frame
from data_prep.preprocessing.head import head_box
from data_prep.preprocessing.picture import PictureConfig
from data_prep.preprocessing.skull import intracranial_mask

Grey = NDArray[np.uint8]


@pytest.fixture(scope="module")
def upright() -> DrawnHead:
    return draw_head()


# Couch


def arc(image_ZHW: Grey) -> None:
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    image_ZHW[:, (np.abs(np.hypot(rows + 20, columns - 60) - 124) < 2) & (rows > 80)] = 200


def arc_at_the_skin(image_ZHW: Grey) -> None:
    image_ZHW[:, 101:104, 10:110] = 200


def holder(image_ZHW: Grey) -> None:
    image_ZHW[:, 30:, 4:6] = image_ZHW[:, 30:, 114:116] = 180


def wires(image_ZHW: Grey) -> None:
    image_ZHW[::2, 5:60, 8] = image_ZHW[::3, 107, ::5] = 255


@pytest.mark.parametrize("add", [arc, arc_at_the_skin, holder, wires])
def test_what_is_not_the_head_goes_and_the_head_stays(add: Callable[[Grey], None], upright: DrawnHead) -> None:
    image_ZHW = upright.image_ZHW.copy()
    add(image_ZHW)
    found_ZHW = head_mask(image_ZHW, VOXEL_MM)
    foreign_ZHW = (image_ZHW > 0) & ~upright.head_ZHW
    assert found_ZHW[upright.brain_ZHW].all()
    assert found_ZHW[upright.head_ZHW].mean() > 0.995
    assert found_ZHW[foreign_ZHW].mean() < 0.15


def test_blank_slices_hold_no_head_and_change_none(upright: DrawnHead) -> None:
    blank_ZHW = np.zeros((2, *SHAPE[1:]), dtype=np.uint8)
    found_ZHW = head_mask(np.concatenate([blank_ZHW, upright.image_ZHW, blank_ZHW]), VOXEL_MM)
    assert not found_ZHW[[0, 1, -2, -1]].any()
    assert np.array_equal(found_ZHW[2:-2], head_mask(upright.image_ZHW, VOXEL_MM))


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 33, 70)])
def test_where_there_is_no_head_everything_stays(shape: tuple[int, int, int]) -> None:
    empty_ZHW = np.zeros(shape, dtype=np.uint8)
    everything = head_mask(empty_ZHW, voxel_size(empty_ZHW, None))
    assert everything.all()
    assert intracranial_mask(empty_ZHW, everything, (5.0, 1.0, 1.0)).all()


# Skull


def found_space(image_ZHW: Grey) -> NDArray[np.bool_]:
    return intracranial_mask(image_ZHW, head_mask(image_ZHW, VOXEL_MM), VOXEL_MM)


def test_the_brain_stays_and_skull_and_skin_go(upright: DrawnHead) -> None:
    found_ZHW = found_space(upright.image_ZHW)
    assert found_ZHW[upright.brain_ZHW].mean() > 0.999
    assert found_ZHW[upright.head_ZHW & ~upright.brain_ZHW].mean() < 0.03


def test_holes_of_the_skull_base_let_nothing_in(upright: DrawnHead) -> None:
    image_ZHW = upright.image_ZHW.copy()
    image_ZHW[:4, :, 57:62][image_ZHW[:4, :, 57:62] == 255] = SKIN
    found_ZHW = found_space(image_ZHW)
    assert found_ZHW[upright.brain_ZHW].mean() > 0.999
    assert found_ZHW[upright.head_ZHW & ~upright.brain_ZHW].mean() < 0.06


def test_bleeding_as_bright_as_bone_stays_where_it_touches_the_skull(upright: DrawnHead) -> None:
    image_ZHW = upright.image_ZHW.copy()
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    bleeding_ZHW = upright.brain_ZHW & (np.hypot(rows - 54, columns - 34) < 6)
    bleeding_ZHW[[*range(4), *range(8, 15)]] = False
    image_ZHW[bleeding_ZHW] = 255
    # All but its rim, where nothing tells it from bone.
    assert found_space(image_ZHW)[bleeding_ZHW].mean() > 0.6


def test_an_infarct_that_the_window_made_black_stays(upright: DrawnHead) -> None:
    image_ZHW = upright.image_ZHW.copy()
    infarct_ZHW = upright.brain_ZHW & (np.arange(SHAPE[2]) < 48) & (np.arange(SHAPE[1]) < 60)[:, None]
    image_ZHW[infarct_ZHW] = 0
    assert found_space(image_ZHW)[infarct_ZHW].mean() > 0.99


def test_a_missing_piece_of_the_skull_loses_no_brain(upright: DrawnHead) -> None:
    image_ZHW = upright.image_ZHW.copy()
    removed_ZHW = (image_ZHW == 255) & (np.arange(SHAPE[2]) > 75)
    removed_ZHW[:, :25] = removed_ZHW[:, 85:] = removed_ZHW[:5] = False
    image_ZHW[removed_ZHW] = BRAIN
    assert found_space(image_ZHW)[upright.brain_ZHW].mean() > 0.999


@pytest.mark.parametrize("grey", [BRAIN, 255])
def test_without_bone_or_without_brain_the_head_stays(grey: int, upright: DrawnHead) -> None:
    """A picture that was stripped before, and one in which all is saturated."""
    image_ZHW = (upright.brain_ZHW * grey).astype(np.uint8)
    assert found_space(image_ZHW)[upright.brain_ZHW].mean() > 0.999


# Parts


def test_voxels_have_their_known_size_or_that_of_a_usual_head(upright: DrawnHead) -> None:
    assert voxel_size(upright.image_ZHW, VOXEL_MM) == VOXEL_MM
    slice_mm, row_mm, column_mm = voxel_size(upright.image_ZHW, None)
    length = np.ptp(np.flatnonzero(upright.head_ZHW.any(axis=(0, 2)))) + 1
    assert slice_mm == SPAN_MM / SHAPE[0]
    assert voxel_size(upright.image_ZHW[:3], None)[0] == THICK_MM
    assert row_mm == column_mm == pytest.approx(HEAD_LENGTH_MM / length, rel=0.1)


def test_holes_are_filled_within_a_slice_and_the_largest_part_is_one_in_3d() -> None:
    ring = np.zeros((3, 9, 9), dtype=np.bool_)
    ring[1, 2:7, 2:7] = True
    ring[1, 3:6, 3:6] = False
    assert filled(ring).sum() == 25
    ring[1, 2, 4] = False
    assert filled(ring).sum() == 15
    ring[:, 8, 8] = True
    assert largest_part(ring).sum() == 15
    assert not largest_part(np.zeros_like(ring)).any()


# Together

PREPARED = PictureConfig(image_size=64, remove_couch=True, strip_skull=True)
TILTED = 18.0, 6.0, 8.0


@pytest.mark.parametrize("crop", ["head", "none"])
def test_a_prepared_head_is_stripped_and_its_lesion_comes_back(crop: str) -> None:
    head = draw_head(*TILTED)
    arc(head.image_ZHW)
    lesion_ZHW = np.zeros(SHAPE, dtype=np.bool_)
    lesion_ZHW[5:10, 40:60, 40:58] = True
    framing = frame(head.image_ZHW, PREPARED.model_copy(update={"crop": crop}), VOXEL_MM)
    seen_ZSS = framing.images(head.image_ZHW).astype(float)
    assert (seen_ZSS[4:11] > 200).mean() < 0.02
    back_ZHW = framing.to_native(framing.shares(lesion_ZHW).astype(np.float32) / 255) >= 0.5
    assert back_ZHW.shape == SHAPE
    assert 2 * (back_ZHW & lesion_ZHW).sum() / (back_ZHW.sum() + lesion_ZHW.sum()) > 0.85


def test_each_part_can_be_had_alone() -> None:
    head = draw_head(*TILTED)
    arc(head.image_ZHW)
    bare = PictureConfig(image_size=64)
    couch, skull = (
        frame(head.image_ZHW, bare.model_copy(update={part: True}), VOXEL_MM)
        for part in ("remove_couch", "strip_skull")
    )
    assert couch.kept_ZHW is not None
    assert skull.kept_ZHW is not None
    assert head.brain_ZHW.sum() <= skull.kept_ZHW.sum() < couch.kept_ZHW.sum() < head.image_ZHW.size
    assert frame(head.image_ZHW, bare) == Framing(head_box(head.image_ZHW), SHAPE[1:], 64)


# What was removed


def test_settings_that_name_the_former_alignment_as_off_are_read_without_it() -> None:
    assert PictureConfig.model_validate({"image_size": 96, "align_midline": False}) == PictureConfig(image_size=96)


@pytest.mark.parametrize("value", [True, None, 0, "no"])
def test_settings_that_name_the_former_alignment_otherwise_are_refused(value: object) -> None:
    with pytest.raises(ValidationError, match=r"align_midline: .* no longer .*; leave it out and train anew, or"):
        PictureConfig.model_validate({"align_midline": value})
