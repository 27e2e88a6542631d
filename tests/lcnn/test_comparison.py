"""Permutation tests against flips counted by hand, and Holm's correction against his own steps."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from lcnn.scoring.comparison import compare_models, holm, permutation_p

NAN = math.nan


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.1, 0.2, 0.3, 0.1], 2 / 16),
        ([0.1] * 6, 2 / 64),
        ([0.3, -0.1], 1.0),
        ([0.2, -0.1, 0.4], 4 / 8),
        ([0.4], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([NAN, 0.1, 0.2, 0.3], 2 / 8),
        ([], None),
        ([NAN], None),
    ],
)
def test_few_patients_are_tested_exactly(differences, p):
    assert permutation_p(differences, [0.0] * len(differences)) == p
    assert permutation_p([0.0] * len(differences), differences) == p


def test_the_test_counts_every_flip_of_signs():
    differences = np.random.default_rng(0).normal(0.2, 0.3, 10)
    flips = np.array(list(itertools.product([-1, 1], repeat=10))) @ differences
    expected = np.mean(abs(flips) >= abs(differences.sum()) - 1e-9)
    assert 0 < expected < 1
    assert permutation_p(differences.tolist(), [0.0] * 10) == pytest.approx(expected)


def test_many_patients_are_tested_by_chance_the_same_way_each_time():
    rng = np.random.default_rng(1)
    theirs = rng.normal(0.5, 0.2, 40)
    ours = theirs + rng.normal(0.05, 0.1, 40)
    p = permutation_p(ours.tolist(), theirs.tolist())
    assert p == permutation_p(ours.tolist(), theirs.tolist())
    assert p == pytest.approx(ttest_rel(ours, theirs).pvalue, rel=0.3)


def test_without_an_effect_one_test_in_twenty_is_below_a_twentieth():
    rng = np.random.default_rng(2)
    values = [permutation_p(rng.normal(0, 1, 8).tolist(), [0.0] * 8) for _ in range(200)]
    assert sum(p <= 0.05 for p in values) <= 18  # expected 9, standard deviation 3


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, None, 0.03], [0.04, None, 0.04]),
        ([None], [None]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, corrected):
    assert holm(p_values) == [pytest.approx(p) if p is not None else None for p in corrected]


def test_the_first_is_compared_with_each_other_and_corrected_within_a_metric():
    better, same = [0.9, 0.8, 0.7, 0.9, 0.8, 0.7], [0.5, 0.6, 0.6, 0.5, 0.5, 0.4]
    figures = {
        "winner": {"dice": better, "recall": same},
        "defaults": {"dice": same, "recall": same},
        "unet": {"dice": same, "recall": better},
    }
    found = {(one.theirs, one.metric): one for one in compare_models(figures)}
    assert list(found) == [("defaults", "dice"), ("unet", "dice"), ("defaults", "recall"), ("unet", "recall")]
    dice = found["defaults", "dice"]
    assert dice.ours == "winner"
    assert dice.difference.mean == pytest.approx(np.mean(better) - np.mean(same))
    assert dice.difference.low > 0
    assert (dice.p_permutation, dice.p_holm) == (2 / 64, 4 / 64)
    assert found["defaults", "recall"].p_holm == 1.0
    assert found["unet", "recall"].difference.mean < 0
    assert compare_models({"winner": figures["winner"]}) == []


def test_models_of_different_patients_are_refused():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        compare_models({"a": {"dice": [0.1, 0.2]}, "b": {"dice": [0.1]}})


def test_pairs_of_a_person_change_places_together() -> None:
    """Twelve pairs of three persons are no more evidence than three pairs."""
    ours, persons = [0.1, 0.2, 0.3], [n for n in range(3) for _ in range(4)]
    repeated = [value for value in ours for _ in range(4)]
    assert permutation_p(repeated, [0.0] * 12, persons) == permutation_p(ours, [0.0] * 3) == 0.25
    assert permutation_p(repeated, [0.0] * 12) < 0.001
    figures = {"winner": {"dice": repeated}, "defaults": {"dice": [0.0] * 12}}
    (found,) = compare_models(figures, persons)
    assert (found.p_holm, found.difference.patients, found.difference.mean) == (0.25, 3, pytest.approx(0.2))
