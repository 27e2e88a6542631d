"""TPE over long studies: the same as Optuna's as long as it may see all, and the best and newest beyond."""

import random
import warnings
from collections.abc import Callable

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from lcnn.outcome import Outcome
from search.spec.space import SearchSpace
from search.study.ledger import CONSTRAINT, Ledger
from search.study.sampling import tpe
from search.study.sampling.tpe import GOOD, MOST_OBSERVATIONS, MOST_RUNNING, Observations, _Seen

Open = Callable[..., Ledger]


def ended_trials(number: int, seed: int = 0, completed: float = 0.3) -> list[FrozenTrial]:
    """Trials of all ends, numbered."""
    draw = random.Random(seed)
    trials = []
    for i in range(number):
        curve = {epoch: draw.random() for epoch in range(1, draw.choice([1, 3, 9]) + 1)}
        is_complete = draw.random() < completed
        trial = create_trial(
            state=TrialState.COMPLETE if is_complete else TrialState.PRUNED,
            value=max(curve.values()),
            intermediate_values=curve if draw.random() < 0.9 else {},
            system_attrs={f"constraints:{CONSTRAINT}": 1.0} if draw.random() < 0.1 else {},
        )
        trial.number = i
        trials.append(trial)
    return trials


def told(trials: list[FrozenTrial]) -> Observations:
    observations = Observations()
    for trial in random.Random(1).sample(trials, len(trials)):  # they end in any order
        observations.add(trial)
    return observations


def running_trials(numbers: range) -> list[FrozenTrial]:
    trials = [create_trial(state=TrialState.RUNNING) for _ in numbers]
    for number, trial in zip(numbers, trials, strict=True):
        trial.number = number
    return trials


@pytest.mark.parametrize("completed", [0.3, 0.01, 0.0])
def test_the_best_are_those_that_optuna_takes_for_good(completed: float) -> None:
    trials = ended_trials(1000, completed=completed)
    study = optuna.create_study(direction="maximize")
    good, _ = _split_trials(study, trials, GOOD)
    shown = told(trials).shown([])
    assert shown is not None
    shown_good, _ = _split_trials(study, shown, GOOD)
    assert [t.number for t in shown_good] == [t.number for t in good]


def test_the_others_are_the_newest() -> None:
    trials = ended_trials(1000)
    running = running_trials(range(1000, 1200))
    shown = told(trials).shown(running)
    assert shown is not None
    numbers = [trial.number for trial in shown]
    assert len(numbers) == MOST_OBSERVATIONS
    assert numbers == sorted(set(numbers))
    assert numbers[-MOST_RUNNING:] == list(range(1150, 1200))
    newest = MOST_OBSERVATIONS - MOST_RUNNING - GOOD
    assert set(range(1000 - newest, 1000)) <= set(numbers)


def test_up_to_the_bound_all_are_seen() -> None:
    trials = ended_trials(MOST_OBSERVATIONS - 10)
    assert told(trials).shown(running_trials(range(1000, 1010))) is None
    assert told(trials).shown(running_trials(range(1000, 1011))) is not None


def test_trials_as_shown_give_optuna_the_same_observations(open_ledger: Open) -> None:
    ledger = open_ledger()
    live(ledger, 20)
    for _ in range(3):
        ledger.draw_params(ledger.ask())
    trials = ledger.study.get_trials()
    sampler = stock_tpe(0)
    shown = [_Seen.of_running(trial) if trial.state == TrialState.RUNNING else _Seen.of(trial) for trial in trials]
    for space in ({"fusion.local": trials[0].distributions["fusion.local"]}, trials[0].distributions):
        expected = sampler._get_internal_repr(trials, space, ledger.study)  # type: ignore[attr-defined]
        found = sampler._get_internal_repr(shown, space, ledger.study)  # type: ignore[attr-defined]
        assert {name: list(values) for name, values in found.items()} == {n: list(v) for n, v in expected.items()}


def test_a_failed_trial_is_no_observation() -> None:
    failed = create_trial(state=TrialState.FAIL)
    observations = told([*ended_trials(MOST_OBSERVATIONS), failed])
    assert observations.shown([]) is None


def live(ledger: Ledger, trials: int) -> list[object]:
    """Run trials whose curves depend on their settings alone; what was proposed."""
    for _ in range(trials):
        number = ledger.ask()
        params = ledger.draw_params(number)
        value = 1.0 - abs(float(params["fusion.local"]) - 0.6)  # type: ignore[arg-type]
        ledger.record_epoch(number, 1, value, 1.0)
        ledger.finish(number, Outcome.COMPLETED if value > 0.9 else Outcome.PRUNED)
    return [trial.params for trial in ledger.trials()]


def stock_tpe(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.samplers.TPESampler(n_startup_trials=4, multivariate=True, group=True, seed=seed)


def test_up_to_the_bound_proposals_are_those_of_optuna(open_ledger: Open, space: SearchSpace) -> None:
    ours = live(open_ledger(), 25)
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(dict(space.params(space.defaults)))
    for number in range(25):
        study.sampler = stock_tpe(number)
        trial = study.ask()
        params = space.suggest(trial)
        value = 1.0 - abs(float(params["fusion.local"]) - 0.6)  # type: ignore[arg-type]
        trial.report(value, 1)
        study.tell(trial, *((value,) if value > 0.9 else (None, TrialState.PRUNED)))
    assert ours == [trial.params for trial in study.trials]


def test_beyond_the_bound_a_restart_changes_nothing(open_ledger: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpe, "MOST_OBSERVATIONS", 8)
    monkeypatch.setattr(tpe, "GOOD", 3)
    whole = live(open_ledger("whole"), 20)
    for _ in range(20):
        live(open_ledger("restarted"), 1)
    assert [trial.params for trial in open_ledger("restarted").trials()] == whole
