"""What trials say together: progress, early stopping, slots, agreement."""

from datetime import timedelta

import pytest
from evidence_cases import BEGIN, EPOCHS, PATIENTS, mixed_trials, spans_of, trial

from lcnn.outcome import Outcome
from search.report.analysis import (
    Effort,
    Rung,
    best_so_far,
    grace_warning,
    lanes,
    looks,
    rank_agreement,
    rungs,
    survival,
    volume_agreement,
)
from search.report.evidence import Span
from search.spec.settings import SchedulerConfig


def curved(number, *curve, outcome=Outcome.COMPLETED, seconds=1.0):
    return trial(number, outcome, curve=curve, seconds=seconds)


def test_progress_goes_in_the_order_of_the_ends_and_adds_effort_up():
    trials = [curved(0, 0.2, 0.5, seconds=20), curved(1, 0.4, outcome=Outcome.PRUNED, seconds=7), trial(2, None)]
    spans = {
        0: Span(BEGIN, BEGIN + timedelta(minutes=9)),
        1: Span(BEGIN, BEGIN + timedelta(minutes=1)),
        2: Span(BEGIN, None),
    }
    found = {effort: best_so_far(trials, spans, effort) for effort in Effort}
    assert [(step.trial.number, step.best) for step in found[Effort.TRIALS]] == [(1, 0.4), (0, 0.5)]
    assert [step.effort for step in found[Effort.TRIALS]] == [1, 2]
    assert [step.effort for step in found[Effort.EPOCHS]] == [1, 3]
    assert [step.effort for step in found[Effort.SECONDS]] == [7, 27]


def test_a_trial_without_a_value_is_an_effort_and_no_best():
    trials = [trial(0, Outcome.INFEASIBLE), curved(1, 0.3)]
    steps = best_so_far(trials, spans_of(trials), Effort.TRIALS)
    assert [step.best for step in steps] == [None, 0.3]


def test_rungs_say_who_came_and_who_went_on():
    trials = [curved(0, *[0.1] * 9), curved(1, 0.1, 0.2, 0.3), curved(2, 0.1), trial(3, Outcome.CRASHED)]
    assert survival(trials, 4) == [4, 3, 2, 2, 1]
    assert rungs(trials, SchedulerConfig(grace=1, reduction=3), EPOCHS) == [Rung(1, 3, 2), Rung(3, 2, 1)]


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (SchedulerConfig(name="asha", grace=1, reduction=3), [1, 3]),
        (SchedulerConfig(name="hyperband", grace=3, reduction=3), [3]),
        (SchedulerConfig(name="median", grace=4), [4]),
        (SchedulerConfig(name="median", grace=9), []),
        (SchedulerConfig(name="none"), []),
    ],
)
def test_schedulers_look_at_their_epochs(scheduler, expected):
    assert looks(scheduler, EPOCHS) == expected


def test_rank_agreement_is_one_where_the_order_holds_and_minus_one_where_it_turns():
    (kept,) = rank_agreement([curved(n, 0.1 * n, 0.6 + 0.01 * n) for n in range(1, 7)], 2)
    assert (kept.spearman, kept.kendall, kept.trials) == pytest.approx((1, 1, 6))
    turned = [curved(n, 0.1 * n, 0.9 - 0.01 * n) for n in range(1, 7)]
    (only,) = rank_agreement(turned, 2)
    assert only.spearman == pytest.approx(-1)
    assert "too short" in (grace_warning([only], 1) or "")


def test_equal_values_have_no_order_and_that_is_a_warning_too():
    (only,) = rank_agreement([curved(n, 0.0, 0.1 * n) for n in range(1, 8)], 2)
    assert only.spearman is None
    assert "no order" in (grace_warning([only], 1) or "")


@pytest.mark.parametrize("trials", [[], [curved(0, 0.1, 0.2)], [curved(n, 0.1, 0.9 - n / 10) for n in range(5)]])
def test_few_trials_warn_of_nothing(trials):
    assert grace_warning(rank_agreement(trials, 2), 1) is None


def test_trials_share_the_slots_that_were_free():
    trials = mixed_trials(6)
    stays = lanes(trials, spans_of(trials))
    assert [stay.lane for stay in stays] == [0, 1, 0, 1, 0, 1]
    assert lanes(trials, {}) == []


def test_volumes_agree_as_computed_by_hand():
    agreement = volume_agreement(PATIENTS)
    assert agreement is not None
    assert agreement.differences == (3.0, -1.0, 4.0)
    assert agreement.means == (1.5, 1.5, 42.0)
    assert agreement.bias == pytest.approx(2.0)
    # Standard deviation of 3, -1, 4 is the root of 7.
    assert (agreement.low, agreement.high) == pytest.approx((2 - 1.96 * 7**0.5, 2 + 1.96 * 7**0.5))
    assert volume_agreement(()) is None
    assert volume_agreement(PATIENTS[:1]).low is None
