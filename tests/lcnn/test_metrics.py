"""Metrics on masks whose figures are known: perfect, inverted, empty and counted by hand."""

import math

import numpy as np
import pytest

from lcnn.metrics import Counts, count, hd95, mean_defined, surface_dice


def mask(*voxels, shape=(4, 8, 8)):
    volume = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        volume[voxel] = True
    return volume


HALF = np.zeros((2, 4, 4), dtype=bool)
HALF[:, :, :2] = True  # 16 of 32 voxels
THREE_COLUMNS = np.zeros((2, 4, 4), dtype=bool)
THREE_COLUMNS[:, :, 1:] = True  # 24 voxels, of which 8 lie in HALF
NONE = np.zeros((2, 4, 4), dtype=bool)


@pytest.mark.parametrize(
    ("predicted", "true", "counts", "dice", "precision", "recall"),
    [
        (HALF, HALF, (16, 16, 16), 1.0, 1.0, 1.0),
        (~HALF, HALF, (0, 16, 16), 0.0, 0.0, 0.0),
        (THREE_COLUMNS, HALF, (8, 24, 16), 16 / 40, 1 / 3, 1 / 2),
        (HALF, THREE_COLUMNS, (8, 16, 24), 16 / 40, 1 / 2, 1 / 3),
        (NONE, HALF, (0, 0, 16), 0.0, math.nan, 0.0),
        (HALF, NONE, (0, 16, 0), math.nan, 0.0, math.nan),
        (NONE, NONE, (0, 0, 0), math.nan, math.nan, math.nan),
    ],
    ids=["perfect", "inverted", "over", "under", "missed", "false alarm", "rightly empty"],
)
def test_overlap_by_hand_and_by_the_empty_rule(predicted, true, counts, dice, precision, recall):
    found = count(predicted, true)
    assert found == Counts(*counts)
    assert [found.dice, found.precision, found.recall] == pytest.approx([dice, precision, recall], nan_ok=True)


@pytest.mark.parametrize(
    ("other", "distance_mm", "distance_voxels"),
    [
        ((1, 1, 1), 0.0, 0.0),
        ((3, 1, 1), 10.0, 2.0),
        ((1, 4, 1), 1.5, 3.0),
        ((1, 1, 6), 4.0, 5.0),
        ((1, 4, 6), math.hypot(1.5, 4.0), math.hypot(3, 5)),
    ],
)
def test_hd95_follows_the_spacing_of_each_axis(other, distance_mm, distance_voxels):
    here, there = mask((1, 1, 1)), mask(other)
    assert hd95(here, there, (5.0, 0.5, 0.8)) == pytest.approx(distance_mm)
    assert hd95(here, there, None) == pytest.approx(distance_voxels)


def test_hd95_is_symmetric_and_takes_the_worse_side():
    here = mask((1, 1, 1))
    both = mask((1, 1, 1), (1, 1, 5))
    # From the pair, distances are 0 and 4: the 95th percentile between them is 3.8. The way back is 0.
    assert hd95(here, both, None) == pytest.approx(3.8)
    assert hd95(both, here, None) == pytest.approx(3.8)


def test_hd95_leaves_out_the_farthest_twentieth():
    line = np.zeros((1, 20, 120), dtype=bool)
    line[0, 2, :100] = True
    with_outlier = line.copy()
    with_outlier[0, 15, 50] = True
    assert hd95(with_outlier, line, None) == 0
    with_outlier[0, 15, 20:80:3] = True  # now a sixth of the surface lies 13 rows away
    assert hd95(with_outlier, line, None) == pytest.approx(13)


@pytest.mark.parametrize(("predicted", "true"), [(NONE, HALF), (HALF, NONE), (NONE, NONE)])
def test_there_is_no_distance_to_an_empty_mask(predicted, true):
    assert math.isnan(hd95(predicted, true, None))


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        (HALF, HALF, 1.0),
        (NONE, HALF, 0.0),
        (HALF, NONE, math.nan),
        (NONE, NONE, math.nan),
        (mask((1, 1, 1)), mask((1, 1, 1)), 1.0),
    ],
    ids=["perfect", "missed", "false alarm", "rightly empty", "one voxel"],
)
def test_surface_dice_by_the_empty_rule(predicted, true, expected):
    for spacing in (None, (5.0, 0.5, 0.8)):
        assert surface_dice(predicted, true, spacing) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("other", "in_mm", "in_voxels"),
    [
        ((0, 1, 6), 1.0, 1.0),  # 5 columns: 4 mm
        ((0, 1, 7), 1.0, 0.0),  # 6 columns: 4.8 mm
        ((0, 1, 8), 0.0, 0.0),  # 7 columns: 5.6 mm
        ((1, 1, 1), 1.0, 0.0),  # the next slice: 5 mm, or who knows how far
        ((1, 2, 1), 0.0, 0.0),  # more than 5 mm across slices
    ],
)
def test_a_surface_is_met_within_five_mm_or_five_pixels_of_the_slice(other, in_mm, in_voxels):
    here, there = mask((0, 1, 1), shape=(3, 9, 9)), mask(other, shape=(3, 9, 9))
    assert surface_dice(here, there, (5.0, 0.5, 0.8)) == in_mm
    assert surface_dice(here, there, None) == in_voxels


def test_surface_dice_counts_the_surface_voxels_of_both():
    near, far = (0, 1, 1), (0, 1, 15)
    # Of the truth its one voxel is met, of the prediction one of two: (1 + 1) / (1 + 2).
    predicted, true = mask(near, far, shape=(1, 3, 20)), mask(near, shape=(1, 3, 20))
    assert surface_dice(predicted, true, None) == pytest.approx(2 / 3)
    assert surface_dice(true, predicted, None) == pytest.approx(2 / 3)


def test_a_shift_within_the_tolerance_costs_no_surface_and_a_larger_one_some():
    square = np.zeros((1, 40, 40), dtype=bool)
    square[0, 10:20, 10:20] = True
    assert surface_dice(np.roll(square, 5, axis=2), square, None) == 1.0
    # In a single slice all 100 voxels of a square are surface. 8 columns to the right, three columns of each lie
    # further than 5 from the other.
    assert surface_dice(np.roll(square, 8, axis=2), square, None) == pytest.approx(70 / 100)


@pytest.mark.parametrize(
    ("values", "mean"),
    [([0.2, 0.4], 0.3), ([0.2, math.nan, 0.4], 0.3), ([0.0], 0.0), ([math.nan], math.nan), ([], math.nan)],
)
def test_means_leave_out_the_undefined(values, mean):
    assert mean_defined(values) == pytest.approx(mean, nan_ok=True)
    assert mean_defined(np.array(values)) == pytest.approx(mean, nan_ok=True)
