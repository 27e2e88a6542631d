"""Budgets: what counts, and which limit is named."""

import random

import pytest

from lcnn.outcome import Outcome
from search.spec.settings import BudgetConfig
from search.study.budget.limits import Limit, Tally, reached
from search.study.ledger import TrialRecord


def trial(
    number: int,
    curve: tuple[float, ...] = (),
    outcome: Outcome | None = Outcome.PRUNED,
    seconds: float = 10.0,
    gpu_share: float = 0.0,
) -> TrialRecord:
    return TrialRecord(number, {}, curve, outcome, seconds, gpu_share)


def test_everything_but_a_crash_costs_a_trial() -> None:
    tally = Tally([trial(i, (0.1,), outcome) for i, outcome in enumerate([None, *Outcome])])
    assert tally.counted == len(Outcome)
    assert tally.epochs == 1 + len(Outcome)


def test_gpu_time_is_weighted_with_the_share() -> None:
    trials = [trial(0, seconds=100.0, gpu_share=0.5), trial(1, seconds=30.0, gpu_share=1.0), trial(2, seconds=7.0)]
    assert Tally(trials).gpu_seconds == 80.0


@pytest.mark.parametrize("fault", [Outcome.DIVERGED, Outcome.INFEASIBLE, Outcome.CRASHED])
def test_a_value_that_ended_in_a_fault_is_no_best(fault: Outcome) -> None:
    tally = Tally([trial(0, (0.3,)), trial(1, (0.4, 0.9), None)])
    assert tally.best == 0.9
    tally.update(trial(1, (0.4, 0.9), fault))
    assert tally.best == 0.3
    tally.update(trial(0, (0.3,), fault))
    assert tally.best is None


def test_trials_since_the_best_are_those_started_later_that_have_ended() -> None:
    tally = Tally([trial(0, (0.3,)), trial(1, (0.5,)), trial(2, (0.5,)), trial(3, (0.1,)), trial(4, (0.2,), None)])
    assert tally.since_best == 2  # the tie goes to the earlier trial, the last one still runs
    tally.update(trial(4, (0.2, 0.6), None))
    assert tally.since_best == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_tally_kept_up_equals_one_made_anew(seed: int) -> None:
    draw = random.Random(seed)
    kept, now = Tally([]), {}
    for _ in range(120):
        number = draw.randrange(12)
        before = now.get(number, trial(number, (), None))
        if before.outcome is not None:
            continue
        curve = (*before.curve, draw.random())
        outcome = draw.choice([None, None, None, *Outcome])
        now[number] = trial(number, curve, outcome, seconds=len(curve), gpu_share=0.25)
        kept.update(now[number])
        anew = Tally(now.values())
        for name in ("counted", "epochs", "best", "since_best"):
            assert getattr(kept, name) == getattr(anew, name), name
        assert kept.gpu_seconds == pytest.approx(anew.gpu_seconds)


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        ({"trials": 3}, Limit.TRIALS),
        ({"trials": 4}, None),
        ({"trials": 4, "epochs": 4}, Limit.EPOCHS),
        ({"trials": 4, "epochs": 5}, None),
        ({"trials": 4, "hours": 0.5}, Limit.HOURS),
        ({"trials": 4, "hours": 0.51}, None),
        ({"trials": 4, "gpu_hours": 0.01}, Limit.GPU_HOURS),
        ({"trials": 4, "target": 0.5}, Limit.TARGET),
        ({"trials": 4, "target": 0.51}, None),
        ({"trials": 4, "plateau": 2}, Limit.PLATEAU),
        ({"trials": 4, "plateau": 3}, None),
        ({"trials": 3, "target": 0.4, "hours": 0.1}, Limit.TARGET),  # the sternest is named
    ],
)
def test_limits(limits: dict[str, float], limit: Limit | None) -> None:
    trials = [trial(0, (0.4, 0.5), seconds=40.0, gpu_share=1.0), trial(1, (0.2,)), trial(2, (0.3,))]
    assert reached(BudgetConfig.model_validate(limits), Tally(trials), seconds=1800.0) == limit


def test_only_what_nobody_waits_for_stops_running_trials() -> None:
    assert {limit for limit in Limit if not limit.stops_running} == {Limit.TRIALS, Limit.SPACE, Limit.PLATEAU}


def test_no_plateau_before_the_first_value() -> None:
    trials = [trial(number, (), Outcome.DIVERGED) for number in range(5)]
    assert reached(BudgetConfig(trials=9, plateau=2), Tally(trials), 0.0) is None
