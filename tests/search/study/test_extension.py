"""Extending a finished search: so much more than was done, under no limit that has been reached."""

from typing import Any

import pytest

from data_prep.common.errors import InputError
from lcnn.outcome import Outcome
from search.spec.settings import BudgetConfig, Extension
from search.study.budget.extension import extended_budget
from search.study.budget.limits import Tally, reached
from search.study.ledger import TrialRecord

HOUR = 3600.0
DONE = [TrialRecord(n, {}, (0.1, 0.5 - n / 10), Outcome.COMPLETED, HOUR, gpu_share=1.0) for n in range(2)]
"""Two trials of two epochs and an hour each; the first is the best, at 0.5."""


def extend(budget: BudgetConfig, *, exhausted: bool = False, **more: Any) -> tuple[BudgetConfig, list[str]]:
    return extended_budget(budget, Extension(**more), Tally(DONE), 2 * HOUR, exhausted=exhausted)


SPENT = {
    "hours": {"hours": 1.5},
    "epochs": {"epochs": 4},
    "gpu_hours": {"gpu_hours": 2.0},
    "plateau": {"plateau": 1},
}


@pytest.mark.parametrize("key", SPENT)
def test_more_trials_lift_every_limit_that_was_reached(key: str) -> None:
    before = BudgetConfig(trials=64, **SPENT[key])
    assert reached(before, Tally(DONE), 2 * HOUR) is not None
    after, lines = extend(before, trials=20)
    assert after.trials == 22  # 20 more than the 2 that were run, not 20 more than were planned
    assert getattr(after, key) is None
    assert reached(after, Tally(DONE), 2 * HOUR) is None
    assert len(lines) == 1
    assert lines[0].startswith(f"budget.{key} = ")


def test_more_hours_lift_the_number_of_trials() -> None:
    after, lines = extend(BudgetConfig(trials=2), hours=2.0)
    assert (after.trials, after.hours) == (None, 4.0)
    assert reached(after, Tally(DONE), 2 * HOUR) is None
    assert lines == ["budget.trials = 2 was reached and no longer limits the search"]


def test_limits_that_were_not_reached_stay() -> None:
    after, lines = extend(BudgetConfig(trials=2, hours=3.0, plateau=5, target=0.9), trials=1)
    assert after == BudgetConfig(trials=3, hours=3.0, plateau=5, target=0.9)
    assert lines == []


def test_both_amounts_come_on_top_of_what_was_done() -> None:
    after, _ = extend(BudgetConfig(trials=2, hours=2.0), trials=3, hours=0.5)
    assert (after.trials, after.hours) == (5, 2.5)


@pytest.mark.parametrize(("more", "option"), [({"trials": 2}, "--trials +2"), ({"hours": 0.5}, "--hours +0.5")])
def test_a_reached_target_is_not_lifted_unasked(more: dict[str, Any], option: str) -> None:
    with pytest.raises(InputError) as refused:
        extend(BudgetConfig(trials=64, target=0.4), **more)
    assert str(refused.value) == (
        f"{option}: budget.target = 0.4 is reached (best Dice 0.500), and nothing runs beyond it; "
        "add --set budget.target=null, or a higher target"
    )


def test_a_space_without_a_further_point_cannot_be_extended() -> None:
    with pytest.raises(InputError, match="every point of its space was run; to search on, widen"):
        extend(BudgetConfig(trials=2), exhausted=True, trials=2)
