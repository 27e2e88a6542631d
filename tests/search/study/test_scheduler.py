"""Early stopping decisions against hand-worked cases."""

import random

import pytest

from search.spec.settings import SchedulerConfig
from search.study.scheduling.schedulers import (
    EXPECTED,
    LEAST_OTHERS,
    SCHEDULERS,
    Asha,
    Decision,
    Hyperband,
    MedianRule,
    NoScheduler,
    bracket_shares,
    build_scheduler,
    deal,
    expected_epochs,
)

GO, STOP = Decision.CONTINUE, Decision.STOP


def test_rungs_lie_at_powers_of_the_reduction_below_the_budget() -> None:
    assert list(Asha(3, 3, 30).rungs) == [3, 9, 27]
    assert list(Asha(3, 3, 9).rungs) == [3]
    assert list(Asha(5, 2, 5).rungs) == []


def test_one_in_three_goes_on_and_the_first_always() -> None:
    asha = Asha(1, 3, 9)
    assert asha.decide(0, [0.5]) == GO
    assert asha.decide(1, [0.4]) == STOP
    assert asha.decide(2, [0.6]) == GO
    assert asha.decide(3, [0.55]) == STOP
    assert asha.decide(4, [0.3]) == STOP
    assert asha.decide(5, [0.58]) == GO  # second of six, two of six go on


def test_between_rungs_nobody_is_stopped() -> None:
    asha = Asha(2, 2, 8)
    asha.decide(0, [0.9, 0.9])
    assert asha.decide(1, [0.0]) == GO
    assert asha.decide(1, [0.0, 0.1]) == STOP
    assert asha.decide(2, [0.9, 0.95, 0.0]) == GO


def test_the_best_value_so_far_counts_not_the_last() -> None:
    asha = Asha(2, 2, 8)
    asha.decide(0, [0.5, 0.6])
    assert asha.decide(1, [0.7, 0.1]) == GO


@pytest.mark.parametrize("seed", range(5))
def test_rungs_recalled_from_the_record_equal_those_that_were_lived_through(seed: int) -> None:
    draw = random.Random(seed)
    lived, recalled = Asha(2, 3, 20), Asha(2, 3, 20)
    curves: dict[int, list[float]] = {number: [] for number in range(12)}
    running = set(curves)
    while running:
        number = draw.choice(sorted(running))
        curves[number].append(draw.random())
        if lived.decide(number, curves[number]) == STOP or len(curves[number]) == 20:
            running.discard(number)
    for number in draw.sample(sorted(curves), len(curves)):
        recalled.recall(number, curves[number])
    assert recalled.rungs == lived.rungs


def test_brackets_begin_later_and_later_and_the_last_stops_nobody() -> None:
    hyperband = Hyperband(1, 3, 27)
    assert [list(bracket.rungs) for bracket in hyperband.brackets] == [[1, 3, 9], [3, 9], [9], []]


def test_brackets_have_the_shares_of_the_paper() -> None:
    """Table 1 of Li et al. 2018: R = 81, eta = 3."""
    assert bracket_shares(1, 3, 81) == {1: 81, 3: 34, 9: 15, 27: 8, 81: 5}


def test_trials_are_dealt_by_number_as_evenly_as_their_shares_allow() -> None:
    assert deal([3, 2]) == (0, 1, 0, 1, 0)
    assert deal([1]) == (0,)
    order = deal([27, 12, 6, 4])
    assert [order.count(bracket) for bracket in range(4)] == [27, 12, 6, 4]
    hyperband = Hyperband(3, 3, 9)
    brackets = [hyperband.brackets.index(hyperband.bracket(number)) for number in range(10)]
    assert brackets == [0, 1, 0, 1, 0] * 2


def test_a_trial_competes_in_its_own_bracket_only() -> None:
    hyperband = Hyperband(1, 2, 4)
    first, other = hyperband.bracket(0), hyperband.bracket(1)
    assert first is not other
    assert hyperband.decide(0, [0.9]) == GO
    assert hyperband.decide(1, [0.1, 0.1]) == GO
    assert hyperband.bracket(3) is first
    assert hyperband.decide(3, [0.1]) == STOP
    assert not any(0 in rung for rung in other.rungs.values())


def test_below_the_median_of_the_running_averages_a_trial_is_stopped() -> None:
    rule = MedianRule(grace=2)
    for number, curve in enumerate([[0.2, 0.4], [0.4, 0.6], [0.0, 0.2], [0.6, 0.8]]):
        rule.recall(number, curve)  # averages after two epochs: 0.3, 0.5, 0.1 and 0.7; their median is 0.4
    assert rule.decide(4, [0.3, 0.39]) == STOP
    assert rule.decide(5, [0.41, 0.1]) == GO  # its best counts; the median of five is now 0.345


def test_the_median_rule_waits_for_grace_and_for_company() -> None:
    rule = MedianRule(grace=2)
    for number in range(LEAST_OTHERS - 1):
        rule.recall(number, [0.5, 0.5])
    assert rule.decide(10, [0.0]) == GO
    assert rule.decide(10, [0.0, 0.0]) == GO
    rule.recall(11, [0.5, 0.5])
    assert rule.decide(10, [0.0, 0.0]) == STOP
    assert rule.decide(10, [0.0, 0.0, 0.0]) == GO  # none of the others has come that far


def test_every_scheduler_of_the_settings_is_built_and_estimated() -> None:
    names = SchedulerConfig.model_json_schema()["properties"]["name"]["enum"]
    assert sorted(SCHEDULERS) == sorted(EXPECTED) == sorted(names)


def test_without_a_scheduler_everyone_goes_on() -> None:
    scheduler = build_scheduler(SchedulerConfig(name="none"), 9)
    assert isinstance(scheduler, NoScheduler)
    assert scheduler.decide(0, [0.0]) == GO


def test_the_built_scheduler_has_the_settings_of_the_file() -> None:
    scheduler = build_scheduler(SchedulerConfig(grace=2, reduction=4), 40)
    assert isinstance(scheduler, Asha)
    assert (list(scheduler.rungs), scheduler.reduction) == ([2, 8, 32], 4)


def test_expected_epochs() -> None:
    assert expected_epochs(SchedulerConfig(name="none"), 9) == 9
    assert expected_epochs(SchedulerConfig(grace=3, reduction=3), 9) == pytest.approx(3 + 6 / 3)
    assert expected_epochs(SchedulerConfig(grace=1, reduction=2), 4) == pytest.approx(1 + 1 / 2 + 2 / 4)
    assert expected_epochs(SchedulerConfig(grace=3, reduction=3), 9, done=2) == pytest.approx(1 + 6 / 3)
    assert expected_epochs(SchedulerConfig(grace=3, reduction=3), 9, done=3) == 6
    assert expected_epochs(SchedulerConfig(grace=3, reduction=3), 9, done=9) == 0
    # Three of five trials have the rung at 3, of which one in three goes on; two of five run through.
    hyperband = SchedulerConfig(name="hyperband", grace=3, reduction=3)
    assert expected_epochs(hyperband, 9) == pytest.approx((3 * 5 + 2 * 9) / 5)
    assert expected_epochs(hyperband, 9, done=3) == 6
    assert expected_epochs(hyperband, 27, done=3) == pytest.approx((3 * (6 + 18 / 3) + 5 * (6 + 18 / 3) + 3 * 24) / 11)
    assert expected_epochs(SchedulerConfig(name="median", grace=3), 9) == pytest.approx(3 + 6 * 2 / 3)
    assert expected_epochs(SchedulerConfig(name="median", grace=3), 9, done=5) == 4


@pytest.mark.parametrize("name", ["asha", "hyperband", "none"])
def test_what_is_expected_is_what_comes_of_curves_in_random_order(name: str) -> None:
    """For the median rule there is a rule of thumb only."""
    config, draw, epochs, trials = SchedulerConfig(name=name, grace=3, reduction=3), random.Random(0), 27, 2000
    scheduler = build_scheduler(config, epochs)
    total = 0
    for number in range(trials):
        height, curve = draw.random(), []
        while len(curve) < epochs:
            curve.append(height * (len(curve) + 1) / (len(curve) + 4))
            if scheduler.decide(number, curve) == STOP:
                break
        total += len(curve)
    assert total / trials == pytest.approx(expected_epochs(config, epochs), rel=0.1)
