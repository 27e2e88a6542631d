"""Reliability against bins filled by hand, and which voxels count."""

import math

import numpy as np
import pytest

from lcnn.scoring.calibration import BINS, around, pooled, reliability


def bins_of(probability, lesion):
    """The reliability of a row of voxels, all of which lie within reach of a lesion."""
    probability_ZHW = np.array(probability, dtype=np.float32)[None, None]
    true_ZHW = np.array(lesion, dtype=bool)[None, None]
    return reliability(probability_ZHW, probability_ZHW >= 0.5, true_ZHW, None)


def test_bins_and_error_by_hand():
    found = bins_of([0.0, 0.04, 0.33, 0.37, 0.92, 0.98, 1.0, 1.0], [0, 0, 0, 1, 1, 0, 1, 1])
    bins = found.bins()
    assert [entry["voxels"] for entry in bins] == [2, 0, 0, 2, 0, 0, 0, 0, 0, 4]
    assert (bins[3]["low"], bins[3]["high"]) == pytest.approx((0.3, 0.4))
    assert (bins[3]["mean_probability"], bins[3]["observed"]) == pytest.approx((0.35, 0.5))
    assert (bins[9]["mean_probability"], bins[9]["observed"]) == pytest.approx((0.975, 0.75))
    assert (bins[1]["mean_probability"], bins[1]["observed"]) == (None, None)
    # Gaps of 0.02, 0.15 and 0.225 by 2, 2 and 4 of 8 voxels.
    assert found.error == pytest.approx((2 * 0.02 + 2 * 0.15 + 4 * 0.225) / 8)


@pytest.mark.parametrize(
    ("probability", "lesion", "error"),
    [
        ([1.0, 0.0, 0.0], [1, 0, 0], 0.0),
        ([0.0, 1.0, 1.0], [1, 0, 0], 1.0),
        ([0.75] * 4, [1, 1, 1, 0], 0.0),
        ([0.0, 0.0], [0, 0], math.nan),
        ([1.0, 1.0], [0, 0], 1.0),
        ([0.25], [1], 0.75),
    ],
    ids=["perfect", "inverted", "as often as it says", "nothing there", "false alarm", "one voxel"],
)
def test_errors_that_are_known(probability, lesion, error):
    assert bins_of(probability, lesion).error == pytest.approx(error, nan_ok=True)


@pytest.mark.parametrize(
    ("spacing_mm", "reach"),
    [((5.0, 1.0, 2.0), (2, 10, 5)), ((12.0, 3.0, 4.0), (0, 3, 2)), (None, (0, 10, 10))],
)
def test_voxels_count_within_ten_mm_or_ten_pixels_of_the_slice(spacing_mm, reach):
    mask = np.zeros((9, 31, 31), dtype=bool)
    mask[4, 15, 15] = True
    near = np.argwhere(around(mask, spacing_mm))
    assert (near.min(axis=0) == np.array([4, 15, 15]) - reach).all()
    assert (near.max(axis=0) == np.array([4, 15, 15]) + reach).all()
    assert len(near) == math.prod(2 * steps + 1 for steps in reach)


def test_the_healthy_rest_of_the_head_does_not_make_a_model_look_calibrated():
    true = np.zeros((1, 200, 200), dtype=bool)
    true[0, 100, 100] = True
    probability = np.zeros(true.shape, dtype=np.float32)  # the lesion is missed with certainty
    found = reliability(probability, probability >= 0.5, true, None)
    assert sum(found.voxels_K) == 21 * 21
    assert found.error == pytest.approx(1 / 21**2)


def test_patients_are_pooled_voxel_by_voxel():
    first, second = bins_of([0.75] * 4, [1, 1, 0, 0]), bins_of([0.75] * 4, [1, 1, 1, 1])
    assert (first.error, second.error) == pytest.approx((0.25, 0.25))
    assert pooled([first, second]).error == pytest.approx(0.0)
    assert sum(pooled([first, second]).voxels_K) == 8
    assert len(pooled([first]).bins()) == BINS
