"""Bootstrap intervals against what is known of them."""

import math

import numpy as np
import pytest

from lcnn.scoring.intervals import Estimate, by_person, estimate_difference, estimate_mean, estimate_share

NAN = math.nan


def sample(n, seed=0):
    return np.random.default_rng(seed).normal(0.6, 0.2, n).tolist()


def test_the_interval_is_that_of_a_normal_mean():
    values = sample(200)
    half = 1.96 * np.std(values) / math.sqrt(200)
    found = estimate_mean(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.low == pytest.approx(np.mean(values) - half, abs=0.1 * half)
    assert found.high == pytest.approx(np.mean(values) + half, abs=0.1 * half)
    assert found.patients == 200


def test_two_values_give_the_interval_between_them():
    # Of resamples of two values a quarter is each value twice: far more than 2.5%.
    assert estimate_mean([0.2, 0.8]) == Estimate(pytest.approx(0.5), pytest.approx(0.2), pytest.approx(0.8), 2)


def test_more_patients_narrow_the_interval():
    found = [estimate_mean(sample(n)) for n in (10, 100, 1000)]
    widths = [estimate.high - estimate.low for estimate in found]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_the_same_seed_gives_the_same_interval_and_another_a_slightly_different_one():
    values = sample(15)
    assert estimate_mean(values, seed=3) == estimate_mean(values, seed=3)
    other = estimate_mean(values, seed=4)
    assert other != estimate_mean(values, seed=3)
    assert other.low == pytest.approx(estimate_mean(values, seed=3).low, abs=0.01)


def test_equal_values_have_an_interval_of_no_width():
    assert estimate_mean([0.5, 0.5, 0.5]) == Estimate(0.5, 0.5, 0.5, 3)


def test_undefined_values_are_left_out_and_not_counted():
    assert estimate_mean([0.1, NAN, 0.7, 0.4, NAN]) == estimate_mean([0.1, 0.7, 0.4])
    assert estimate_mean([0.1, NAN, 0.7, 0.4, NAN]).patients == 3


@pytest.mark.parametrize(
    ("values", "estimate", "text"),
    [
        ([], Estimate(None, None, None, 0), "undefined"),
        ([NAN, NAN], Estimate(None, None, None, 0), "undefined"),
        ([0.25], Estimate(0.25, None, None, 1), "0.250 (one patient, no interval)"),
        ([0.25, NAN], Estimate(0.25, None, None, 1), "0.250 (one patient, no interval)"),
        ([0.5, 0.5], Estimate(0.5, 0.5, 0.5, 2), "0.500 [0.500, 0.500] (n = 2)"),
    ],
)
def test_few_values_and_their_text(values, estimate, text):
    assert estimate_mean(values) == estimate
    assert estimate_mean(values).text() == text
    assert estimate_mean([0.5, 0.5]).text("mm") == "0.500 [0.500, 0.500] mm (n = 2)"


def test_differences_are_paired_where_both_are_defined():
    ours = [0.5, NAN, 0.9, 0.4, 0.7]
    theirs = [0.4, 0.1, NAN, 0.1, 0.2]
    assert estimate_difference(ours, theirs) == estimate_mean([0.5 - 0.4, 0.4 - 0.1, 0.7 - 0.2])
    assert estimate_difference(ours, theirs).mean == pytest.approx(0.3)
    assert estimate_difference(theirs, ours).mean == pytest.approx(-0.3)


def test_pairing_sees_a_small_steady_gain_among_very_different_patients():
    theirs = sample(20)
    ours = [value + 0.01 + 0.001 * (i % 3) for i, value in enumerate(theirs)]
    assert estimate_difference(ours, theirs).low > 0.009


def test_lists_of_different_patients_are_refused():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        estimate_difference([0.1, 0.2], [0.1])


@pytest.mark.parametrize(
    ("hits", "patients", "bounds"),
    [
        # Where all or none are hits, the bound solves bound^n = 0.025.
        (10, 10, (0.025 ** (1 / 10), 1.0)),
        (0, 10, (0.0, 1 - 0.025 ** (1 / 10))),
        (1, 1, (0.025, 1.0)),
        (5, 10, (0.1871, 0.8129)),
    ],
)
def test_shares_have_the_exact_interval(hits, patients, bounds):
    found = estimate_share(hits, patients)
    assert (found.mean, found.patients) == (hits / patients, patients)
    assert (found.low, found.high) == pytest.approx(bounds, abs=1e-4)


def test_a_share_of_nobody_is_undefined():
    assert estimate_share(0, 0) == Estimate(None, None, None, 0)


# Several scans of a person


def test_a_person_is_one_observation_whatever_the_number_of_scans() -> None:
    assert by_person([0.2, 0.4, NAN, 0.9, NAN], ["a", "a", "a", "b", "c"]) == [pytest.approx(0.3), 0.9]
    values = np.random.default_rng(0).random(12).tolist()
    doubled, persons = [value for value in values for _ in range(5)], [n for n in range(12) for _ in range(5)]
    assert estimate_mean(doubled, persons) == estimate_mean(values)
    assert estimate_difference(doubled, [0.0] * 60, persons) == estimate_mean(values)
    alone = estimate_mean(doubled)
    assert (alone.high - alone.low) < 0.6 * (estimate_mean(values).high - estimate_mean(values).low)


def test_persons_of_one_scan_each_change_nothing() -> None:
    values = np.random.default_rng(0).random(12).tolist()
    assert estimate_mean(values, [f"p{n}" for n in range(12)]) == estimate_mean(values)


def test_an_interval_over_persons_holds_what_it_promises() -> None:
    """Where scans of a person are alike, an interval over scans would hold the truth far too rarely."""
    rng = np.random.default_rng(0)
    held = {"persons": 0, "scans": 0}
    for _ in range(100):
        values = np.repeat(rng.normal(0, 1, 20), 4) + rng.normal(0, 0.2, 80)
        persons = np.repeat(np.arange(20), 4).tolist()
        for kind, found in (("persons", estimate_mean(values, persons)), ("scans", estimate_mean(values))):
            held[kind] += found.low <= 0 <= found.high
    assert held["persons"] >= 88
    assert held["scans"] < 75


def test_a_share_of_persons_may_hold_parts_of_them() -> None:
    found, below, above = estimate_share(2.5, 5), estimate_share(2, 5), estimate_share(3, 5)
    assert (found.mean, found.patients) == (0.5, 5)
    assert below.low < found.low < above.low
    assert below.high < found.high < above.high


def test_persons_of_another_number_of_values_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        estimate_mean([0.1, 0.2], ["a"])
