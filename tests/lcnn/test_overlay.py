"""Overlays: a readable picture of one case, with truth in blue and prediction in orange."""

import math

import numpy as np
import pytest
from PIL import Image

from lcnn.scoring.evaluate import Case, score_patient
from lcnn.scoring.overlay import BLUE, CAPTION, ORANGE, PANEL, most_telling_slice, save_overlay

GAP = 8
DISC = (22, 15, 6)


def disc(rows, columns, row, column, radius):
    r, c = np.mgrid[:rows, :columns]
    return (r - row) ** 2 + (c - column) ** 2 < radius**2


def make_case(true=None, predicted=None, *, size=(48, 48), slices=3, at=1):
    """A head with a true and a predicted disc (row, column, radius) on slice ``at``."""
    rows, columns = size
    r, c = np.mgrid[:rows, :columns]
    head = ((r - rows / 2) / (0.46 * rows)) ** 2 + ((c - columns / 2) / (0.46 * columns)) ** 2 < 1
    image = np.repeat((100 * head).astype(np.uint8)[None], slices, axis=0)
    masks = []
    for lesion in (true, predicted):
        mask = np.zeros(image.shape, dtype=bool)
        if lesion:
            mask[at] = disc(rows, columns, *lesion)
        masks.append(mask)
    return Case(score_patient("p", masks[1], masks[0], None), image, masks[0], masks[1])


def panels(path):
    """The three pictures below the captions, each (PANEL, PANEL, 3)."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
        assert picture.size == (3 * PANEL + 2 * GAP, PANEL + CAPTION)
        pixels = np.asarray(picture)[CAPTION:]
    return [pixels[:, i * (PANEL + GAP) : i * (PANEL + GAP) + PANEL] for i in range(3)]


def outline(panel, colour):
    return (panel == colour).all(axis=-1)


def saved(tmp_path, case):
    save_overlay(tmp_path / "overlays" / "p.png", case, title="p")
    assert [file.name for file in (tmp_path / "overlays").iterdir()] == ["p.png"]
    return panels(tmp_path / "overlays" / "p.png")


def test_truth_is_blue_and_prediction_orange_each_in_its_panel(tmp_path):
    plain, truth, prediction = saved(tmp_path, make_case(DISC, (24, 17, 5)))
    assert not outline(plain, BLUE).any()
    assert not outline(plain, ORANGE).any()
    assert outline(truth, BLUE).sum() > 100
    assert not outline(truth, ORANGE).any()
    assert outline(prediction, ORANGE).sum() > 100
    assert not outline(prediction, BLUE).any()


def test_the_outline_follows_the_lesion_and_leaves_its_inside_visible(tmp_path):
    image_only, truth, _ = saved(tmp_path, make_case(DISC, DISC))
    rows, columns = np.nonzero(outline(truth, BLUE))
    middle = round(rows.mean()), round(columns.mean())
    radius = np.hypot(rows - middle[0], columns - middle[1])
    assert radius.min() > 0.7 * radius.max()
    assert (truth[middle] == image_only[middle]).all()
    assert (middle[0] < PANEL / 2) == (DISC[0] < 24)
    assert (middle[1] < PANEL / 2) == (DISC[1] < 24)


@pytest.mark.parametrize(
    ("true", "predicted", "blue", "orange"),
    [(None, None, False, False), (DISC, None, True, False), (None, DISC, False, True)],
    ids=["nothing", "missed", "false alarm"],
)
def test_empty_masks_have_no_outline(tmp_path, true, predicted, blue, orange):
    _, truth, prediction = saved(tmp_path, make_case(true, predicted))
    assert outline(truth, BLUE).any() == blue
    assert outline(prediction, ORANGE).any() == orange


@pytest.mark.parametrize("size", [(48, 96), (96, 48), (60, 50), (300, 700)])
def test_pictures_that_are_not_square_keep_their_proportions(tmp_path, size):
    lesion = (size[0] // 2, size[1] // 2, min(size) // 4)
    _, truth, prediction = saved(tmp_path, make_case(lesion, lesion, size=size))
    for panel, colour in ((truth, BLUE), (prediction, ORANGE)):
        rows, columns = np.nonzero(outline(panel, colour))
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), rel=0.06)


@pytest.mark.parametrize("at", [0, 1, 4])
def test_the_slice_with_the_most_true_lesion_is_shown(at):
    case = make_case(DISC, None, slices=5, at=at)
    case.predicted_ZHW[3] = True
    assert most_telling_slice(case) == at


def test_without_true_lesion_the_largest_false_alarm_is_shown_else_the_middle():
    assert most_telling_slice(make_case(None, DISC, slices=5, at=4)) == 4
    assert most_telling_slice(make_case(None, None, slices=5)) == 2
    assert most_telling_slice(make_case(None, None, slices=1)) == 0


def test_the_captions_differ_with_the_dice(tmp_path):
    captions = []
    for predicted in (DISC, (24, 17, 5), None):
        save_overlay(tmp_path / "p.png", make_case(DISC, predicted), title="p")
        captions.append(np.asarray(Image.open(tmp_path / "p.png"))[:CAPTION, 2 * (PANEL + GAP) :].tobytes())
    assert len(set(captions)) == 3
    assert not math.isnan(make_case(DISC, None).result.dice)


def test_a_lesion_of_one_pixel_in_a_large_picture_is_still_outlined(tmp_path):
    case = make_case(size=(512, 512))
    case.true_ZHW[1, 200, 301] = True
    case.predicted_ZHW[1, 203, 300] = True
    _, truth, prediction = saved(tmp_path, case)
    assert outline(truth, BLUE).any()
    assert outline(prediction, ORANGE).any()
