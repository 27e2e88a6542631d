"""The study as the record of a search."""

from collections.abc import Callable

import optuna
import pytest
from optuna.trial import TrialState

from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.spec.space import SearchSpace
from search.study.ledger import Ledger

Open = Callable[..., Ledger]


def live_through(ledger: Ledger, outcome: Outcome, curve: tuple[float, ...] = (0.1, 0.3, 0.2)) -> int:
    number = ledger.ask()
    ledger.draw_params(number)
    for epoch, value in enumerate(curve, start=1):
        ledger.record_epoch(number, epoch, value, seconds=2.0 * epoch)
    ledger.finish(number, outcome)
    return number


def test_trial_0_is_the_defaults(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    params = ledger.draw_params(ledger.ask())
    assert space.config(params) == TrainConfig()
    assert ledger.draw_params(ledger.ask()) != params


def test_everything_recorded_is_there_after_a_restart(open_ledger: Open) -> None:
    number = live_through(open_ledger(), Outcome.COMPLETED)
    record = open_ledger().trial(number)
    assert record.curve == (0.1, 0.3, 0.2)
    assert (record.best, record.best_epoch, record.seconds) == (0.3, 2, 6.0)
    assert record.outcome == Outcome.COMPLETED


@pytest.mark.parametrize(
    ("outcome", "state", "feasible"),
    [
        (Outcome.COMPLETED, TrialState.COMPLETE, True),
        (Outcome.PRUNED, TrialState.PRUNED, True),
        (Outcome.DIVERGED, TrialState.PRUNED, False),
        (Outcome.INFEASIBLE, TrialState.PRUNED, False),
        (Outcome.CRASHED, TrialState.FAIL, True),
    ],
)
def test_outcomes_are_told_so_that_samplers_understand_them(
    open_ledger: Open, outcome: Outcome, state: TrialState, feasible: bool
) -> None:
    ledger = open_ledger()
    number = live_through(ledger, outcome)
    frozen = ledger.study.get_trials()[number]
    assert frozen.state == state
    assert all(value <= 0 for value in frozen.constraints.values()) == feasible
    assert ledger.trial(number).outcome == outcome
    assert frozen.user_attrs["folder"] == f"trials/{number}"


def test_a_completed_trial_is_worth_its_best_epoch(open_ledger: Open) -> None:
    ledger = open_ledger()
    number = live_through(ledger, Outcome.COMPLETED, (0.1, 0.5, 0.4))
    assert ledger.study.get_trials()[number].value == 0.5


def test_tpe_takes_a_trial_that_cannot_be_trained_for_a_bad_point(open_ledger: Open) -> None:
    """With every trial above a learning rate diverging, proposals must move below it."""
    ledger = open_ledger(startup=8)
    late: list[float] = []
    for _ in range(40):
        number = ledger.ask()
        lr = float(ledger.draw_params(number)["optim.lr"])  # type: ignore[arg-type]
        late.append(lr)
        if lr > 2e-3:
            ledger.finish(number, Outcome.DIVERGED)
        else:
            ledger.record_epoch(number, 1, 0.5, 1.0)
            ledger.finish(number, Outcome.COMPLETED)
    first, last = late[:15], late[-15:]
    assert sum(lr > 2e-3 for lr in last) < sum(lr > 2e-3 for lr in first)


def test_completed_trials_rank_before_pruned_ones_and_faults_not_at_all(open_ledger: Open) -> None:
    ledger = open_ledger()
    assert ledger.ranking() == []
    pruned = live_through(ledger, Outcome.PRUNED, (0.9,))
    live_through(ledger, Outcome.DIVERGED, (0.95,))
    live_through(ledger, Outcome.CRASHED, (0.95,))
    good = live_through(ledger, Outcome.COMPLETED, (0.4, 0.6))
    equal = live_through(ledger, Outcome.COMPLETED, (0.6, 0.5))
    best = live_through(ledger, Outcome.COMPLETED, (0.7,))
    assert [trial.number for trial in ledger.ranking()] == [best, good, equal, pruned]


def test_slots_are_busy_while_trials_train(open_ledger: Open) -> None:
    ledger = open_ledger()
    assert ledger.busy_share is None
    live_through(ledger, Outcome.COMPLETED)  # six seconds
    live_through(ledger, Outcome.PRUNED, (0.1,))  # two
    ledger.set_search_seconds(5.0, 10.0)
    assert ledger.busy_share == pytest.approx(0.8)


def test_an_unfinished_trial_keeps_its_parameters_after_a_restart(open_ledger: Open) -> None:
    first = open_ledger()
    live_through(first, Outcome.COMPLETED)
    number = first.ask()
    params = first.draw_params(number)
    second = open_ledger()
    assert second.trial(number).outcome is None
    assert second.draw_params(number) == params


def test_a_trial_interrupted_while_its_parameters_were_drawn_gets_the_same_ones(open_ledger: Open) -> None:
    whole, broken = open_ledger("whole", startup=1), open_ledger("broken", startup=1)
    for ledger in (whole, broken):
        for curve in ((0.3,), (0.5,), (0.2,)):
            live_through(ledger, Outcome.COMPLETED, curve)
    expected = whole.draw_params(whole.ask())
    number = broken.ask()  # and the program dies before a parameter is drawn
    assert open_ledger("broken", startup=1).draw_params(number) == expected


def test_a_restart_changes_nothing_in_what_is_proposed(open_ledger: Open) -> None:
    whole = open_ledger("whole")
    for value in range(8):
        live_through(whole, Outcome.COMPLETED, (value / 10,))
    for value in range(8):
        live_through(open_ledger("restarted"), Outcome.COMPLETED, (value / 10,))
    assert [t.params for t in whole.trials()] == [t.params for t in open_ledger("restarted").trials()]


def test_other_seeds_propose_other_parameters(open_ledger: Open) -> None:
    for seed in (0, 1):
        ledger = open_ledger(f"seed{seed}", seed=seed)
        for _ in range(3):
            live_through(ledger, Outcome.COMPLETED)
    assert open_ledger("seed0").trial(2).params != open_ledger("seed1").trial(2).params


def test_search_time_adds_up_over_sessions(open_ledger: Open) -> None:
    assert open_ledger().search_seconds == 0
    for _ in range(2):
        ledger = open_ledger()
        ledger.set_search_seconds(ledger.search_seconds + 10, ledger.slot_seconds + 30)
    assert (open_ledger().search_seconds, open_ledger().slot_seconds) == (20, 60)


def test_an_unknown_trial_is_a_key_error(open_ledger: Open) -> None:
    with pytest.raises(KeyError):
        open_ledger().trial(3)


def test_the_study_is_an_ordinary_optuna_study(open_ledger: Open, tmp_path) -> None:  # type: ignore[no-untyped-def]
    number = live_through(open_ledger(), Outcome.COMPLETED)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert study.trials[number].intermediate_values == {1: 0.1, 2: 0.3, 3: 0.2}
