"""Early stopping decisions against hand-worked cases."""

import random

import pytest

from search.scheduler import Asha, Decision, NoScheduler, build_scheduler, expected_epochs
from search.spec import SchedulerConfig

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
