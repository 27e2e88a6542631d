"""The course of a search, without Ray: real study, real rules, curves from a formula."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from curves import dice_after, epoch_result

from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.placement.memory import Placement, with_accumulation
from search.spec.settings import BudgetConfig, SamplerConfig
from search.spec.space import SearchSpace
from search.study.budget.limits import Limit
from search.study.conductor import MOST_CRASHES, TOO_LARGE, Conductor, Event, Proposal
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import Asha, Decision

Open = Callable[..., Ledger]
EPOCHS, TRIALS = 9, 10
BUDGET = BudgetConfig(trials=TRIALS)


class Killed(Exception):
    """Stands for kill -9: nothing runs after it, not even the lines of a `finally` of ours."""


def make(ledger: Ledger, space: SearchSpace, budget: BudgetConfig = BUDGET, **settings: Any) -> Conductor:
    return Conductor(ledger, space, Asha(1, 3, EPOCHS), budget=budget, epochs=EPOCHS, **settings)


def run_one_at_a_time(conductor: Conductor, die_after: int | None = None) -> None:
    """Run trials in sequence; die before the given call to the conductor, counted from 1."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == die_after:
            raise Killed

    count()
    while (proposal := conductor.next_trial()) is not None:
        for epoch in range(proposal.known_epochs + 1, EPOCHS + 1):
            count()
            result = epoch_result(epoch, dice_after(proposal.config, epoch))
            if conductor.report(proposal.number, result) == Decision.STOP:
                break
        else:
            count()
            conductor.finish(proposal.number, Outcome.COMPLETED)
        count()


def contents(ledger: Ledger) -> list[tuple[object, ...]]:
    return [(t.number, t.params, t.curve, t.outcome) for t in ledger.trials()]


def test_a_search_runs_to_its_budget_and_prunes(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    run_one_at_a_time(make(ledger, space))
    trials = ledger.trials()
    assert len(trials) == TRIALS
    assert {t.outcome for t in trials} == {Outcome.COMPLETED, Outcome.PRUNED}
    assert all(len(t.curve) == EPOCHS for t in trials if t.outcome == Outcome.COMPLETED)
    assert all(len(t.curve) in (1, 3) for t in trials if t.outcome == Outcome.PRUNED)


def test_the_defaults_run_to_their_end_however_bad_they_are(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    conductor = make(ledger, space)
    first, second = conductor.next_trial(), conductor.next_trial()
    assert first is not None
    assert second is not None
    assert conductor.report(second.number, epoch_result(1, 0.9)) == Decision.CONTINUE
    assert conductor.report(first.number, epoch_result(1, 0.0)) == Decision.CONTINUE


@pytest.mark.parametrize("seed", range(6))
def test_a_search_killed_anywhere_ends_with_the_same_study(open_ledger: Open, space: SearchSpace, seed: int) -> None:
    run_one_at_a_time(make(open_ledger("whole"), space))
    draw = random.Random(seed)
    for _ in range(200):
        try:
            run_one_at_a_time(make(open_ledger("killed"), space), die_after=draw.randint(1, 25))
            break
        except Killed:
            continue
    assert contents(open_ledger("killed")) == contents(open_ledger("whole"))


def test_rungs_after_a_restart_equal_those_before(open_ledger: Open, space: SearchSpace) -> None:
    before, after = Asha(1, 3, EPOCHS), Asha(1, 3, EPOCHS)
    with pytest.raises(Killed):
        run_one_at_a_time(Conductor(open_ledger(), space, before, budget=BUDGET, epochs=EPOCHS), die_after=20)
    Conductor(open_ledger(), space, after, budget=BUDGET, epochs=EPOCHS)
    assert after.rungs == before.rungs
    assert any(after.rungs.values())


def test_an_unfinished_trial_is_taken_up_before_a_new_one(open_ledger: Open, space: SearchSpace) -> None:
    conductor = make(open_ledger(), space)
    started = [conductor.next_trial(), conductor.next_trial()]
    for proposal in started:
        assert proposal is not None
        conductor.report(proposal.number, epoch_result(1, 0.5))
    again = make(open_ledger(), space)
    taken_up = [again.next_trial(), again.next_trial()]
    assert taken_up[0] == Proposal(0, started[0].config, 1)  # type: ignore[union-attr]
    assert taken_up[1] == Proposal(1, started[1].config, 1)  # type: ignore[union-attr]
    new = again.next_trial()
    assert new is not None
    assert (new.number, new.known_epochs) == (2, 0)


def test_an_epoch_reported_twice_counts_once(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    conductor = make(ledger, space)
    conductor.next_trial()
    for value in (0.5, 0.7):
        conductor.report(0, epoch_result(1, value))
    assert ledger.trial(0).curve == (0.5,)
    assert ledger.trial(0).seconds == 1.0


def test_a_skipped_epoch_is_a_fault(open_ledger: Open, space: SearchSpace) -> None:
    conductor = make(open_ledger(), space)
    conductor.next_trial()
    with pytest.raises(ValueError, match="reported epoch 2 after epoch 0"):
        conductor.report(0, epoch_result(2, 0.5))


def test_messages_after_the_end_change_nothing(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    conductor = make(ledger, space)
    conductor.next_trial()
    conductor.finish(0, Outcome.DIVERGED)
    conductor.finish(0, Outcome.COMPLETED)
    assert conductor.report(0, epoch_result(1, 0.5)) == Decision.STOP
    assert (ledger.trial(0).outcome, ledger.trial(0).curve) == (Outcome.DIVERGED, ())


ONE_HOUR = BudgetConfig(trials=TRIALS, hours=1.0)


def test_out_of_time_nothing_new_starts_and_what_runs_is_stopped(open_ledger: Open, space: SearchSpace) -> None:
    seconds = 0.0
    ledger = open_ledger()
    conductor = make(ledger, space, ONE_HOUR, seconds=lambda: seconds)
    conductor.next_trial()
    conductor.next_trial()
    assert conductor.report(0, epoch_result(1, 0.5)) == Decision.CONTINUE
    seconds = 3600.0
    assert conductor.report(0, epoch_result(2, 0.6)) == Decision.STOP
    assert conductor.next_trial() is None
    assert (ledger.trial(0).outcome, ledger.trial(0).reason) == (Outcome.PRUNED, Limit.HOURS.value)
    # The second trial has no epoch yet; a restart after the deadline must not start it anew.
    assert make(open_ledger(), space, ONE_HOUR, seconds=lambda: 3601.0).next_trial() is None
    assert ledger.trial(1).outcome == Outcome.PRUNED


@pytest.mark.parametrize(
    ("limits", "limit", "epochs"),
    [
        ({"epochs": 2}, Limit.EPOCHS, 2),
        ({"target": 0.6}, Limit.TARGET, 2),
        ({"gpu_hours": 1.0}, Limit.GPU_HOURS, 2),
    ],
)
def test_a_spent_budget_stops_what_runs(
    open_ledger: Open, space: SearchSpace, limits: dict[str, Any], limit: Limit, epochs: int
) -> None:
    ledger = open_ledger()
    placed = {"place": lambda config, begun: Placement(0.5, 1), "uses_gpu": True}
    conductor = make(ledger, space, BudgetConfig(trials=TRIALS, **limits), **placed)
    conductor.next_trial()
    decisions = [conductor.report(0, epoch_result(e, 0.3 * e, seconds=3600.0)) for e in range(1, epochs + 1)]
    assert decisions == [Decision.CONTINUE] * (epochs - 1) + [Decision.STOP]
    assert conductor.reached() == limit
    assert conductor.next_trial() is None
    assert ledger.trial(0).reason == limit.value
    assert make(open_ledger(), space, BudgetConfig(trials=TRIALS, **limits)).reached() == limit


def test_a_plateau_lets_running_trials_end_and_starts_nothing_new(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    conductor = make(ledger, space, BudgetConfig(trials=TRIALS, plateau=2))
    for _ in range(4):
        assert conductor.next_trial() is not None
    conductor.report(0, epoch_result(1, 0.9))
    for number in (1, 2):
        assert conductor.reached() is None
        conductor.report(number, epoch_result(1, 0.1 * number))
        conductor.finish(number, Outcome.DIVERGED)
    assert conductor.reached() == Limit.PLATEAU
    assert conductor.next_trial() is None
    assert conductor.report(0, epoch_result(2, 0.95)) == Decision.CONTINUE
    assert ledger.trial(3).outcome is None


def test_everything_that_happens_is_told(open_ledger: Open, space: SearchSpace) -> None:
    events: list[Event] = []
    ledger = open_ledger()
    run_one_at_a_time(make(ledger, space, on_event=events.append))
    kinds = [event.kind for event in events]
    assert kinds.count("started") == kinds.count("finished") == TRIALS
    assert kinds.count("epoch") == sum(len(t.curve) for t in ledger.trials())


def test_a_crash_costs_no_trial_of_the_budget(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    conductor = make(ledger, space)
    conductor.next_trial()
    second = conductor.next_trial()
    assert second is not None
    conductor.finish(second.number, Outcome.CRASHED, "node lost")
    run_one_at_a_time(make(ledger, space))
    outcomes = [trial.outcome for trial in ledger.trials()]
    assert outcomes.count(Outcome.CRASHED) == 1
    assert len(outcomes) == TRIALS + 1
    assert conductor.broken is None  # one crash is not what ends a search
    assert ledger.trial(second.number).reason == "node lost"


def test_a_trial_whose_worker_broke_goes_on_twice_and_then_has_crashed(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    conductor = make(ledger, space)
    conductor.next_trial()
    second = conductor.next_trial()
    assert second is not None
    conductor.report(0, epoch_result(1, 0.9))
    conductor.report(second.number, epoch_result(1, 0.95))
    for known_epochs in (1, 2):
        conductor.crash(second.number, "node lost")
        again = conductor.next_trial()
        assert again == Proposal(second.number, second.config, known_epochs)
        # What was decided stays decided, whatever the others have reached since.
        conductor.report(second.number, epoch_result(known_epochs + 1, 0.95))
    conductor.crash(second.number, "node lost")
    assert (ledger.trial(second.number).outcome, ledger.trial(second.number).reason) == (Outcome.CRASHED, "node lost")
    conductor.crash(second.number, "told late")
    assert conductor.next_trial().number == 2  # type: ignore[union-attr]


def test_a_trial_that_broke_is_not_judged_again(open_ledger: Open, space: SearchSpace) -> None:
    conductor = make(open_ledger(), space)
    proposals = [conductor.next_trial() for _ in range(4)]
    assert conductor.report(1, epoch_result(1, 0.1)) == Decision.CONTINUE  # the first at its rung
    for number in (2, 3):
        conductor.report(number, epoch_result(1, 0.9))
    conductor.crash(1, "node lost")
    assert conductor.next_trial() == Proposal(1, proposals[1].config, 1)  # type: ignore[union-attr]


def test_crashes_in_a_row_stop_the_session_and_the_next_one_goes_on(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    conductor = make(ledger, space)
    started = 0
    while (proposal := conductor.next_trial()) is not None:
        started += 1
        conductor.finish(proposal.number, Outcome.CRASHED)
    assert started == MOST_CRASHES
    assert conductor.broken == "no reason given"
    assert make(ledger, space).next_trial() is not None


def test_settings_that_exclude_each_other_are_infeasible_and_the_search_goes_on(tmp_path: Path) -> None:
    ranges = {"model.width": {"choice": [32, 20]}, "model.heads": {"choice": [4, 16]}}
    # 16 heads do not divide the 40 channels that width 20 has at the second level.
    space = SearchSpace(ranges, TrainConfig.model_validate({"model": {"levels": 2}}), "file")
    ledger = Ledger(f"sqlite:///{tmp_path / 'other.db'}", "search", space, SamplerConfig(startup=30))
    run_one_at_a_time(Conductor(ledger, space, Asha(1, 3, EPOCHS), budget=BudgetConfig(trials=16), epochs=EPOCHS))
    for trial in ledger.trials():
        excluded = (trial.params["model.width"], trial.params["model.heads"]) == (20, 16)
        assert (trial.outcome == Outcome.INFEASIBLE) == excluded
    assert any(trial.outcome == Outcome.INFEASIBLE for trial in ledger.trials())


def test_a_trial_at_its_last_epoch_is_completed_even_out_of_time(open_ledger: Open, space: SearchSpace) -> None:
    conductor = make(open_ledger(), space)
    conductor.next_trial()
    for epoch in range(1, EPOCHS + 1):
        conductor.report(0, epoch_result(epoch, 0.5))
    # Killed before it could be told complete; the time is over when the program comes back.
    assert make(open_ledger(), space, ONE_HOUR, seconds=lambda: 3601.0).next_trial() is None
    assert open_ledger().trial(0).outcome == Outcome.COMPLETED


def test_a_trial_that_is_cut_into_micro_batches_keeps_them(open_ledger: Open, space: SearchSpace) -> None:
    begun_with: list[int | None] = []

    def place(config: TrainConfig, begun: int | None) -> Placement:
        begun_with.append(begun)
        return Placement(0.5, begun or 4)

    first = make(open_ledger(), space, place=place).next_trial()
    assert first is not None
    assert (first.share, first.config) == (0.5, with_accumulation(space.defaults, 4))
    assert open_ledger().trial(0).accumulation == 4
    # Another pool would fit it otherwise; the checkpoint is of four micro-batches.
    again = make(open_ledger(), space, place=place).next_trial()
    assert again == first
    assert begun_with == [None, 4]


def test_a_trial_that_fits_no_card_is_infeasible_without_being_started(open_ledger: Open, space: SearchSpace) -> None:
    events: list[Event] = []

    def place(config: TrainConfig, begun: int | None) -> Placement | None:
        return Placement(1.0, 1) if config.T == 1 else None

    ledger = open_ledger()
    conductor = make(ledger, space, place=place, on_event=events.append)
    while (proposal := conductor.next_trial()) is not None:
        assert proposal.config.T == 1
        conductor.report(proposal.number, epoch_result(1, 0.5))
        conductor.finish(proposal.number, Outcome.COMPLETED)
    refused = [trial for trial in ledger.trials() if trial.params["T"] != 1]
    assert refused
    assert {(trial.outcome, trial.reason) for trial in refused} == {(Outcome.INFEASIBLE, TOO_LARGE)}
    assert not {event.trial.number for event in events if event.kind == "started"} & {t.number for t in refused}
