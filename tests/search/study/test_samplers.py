"""What samplers are shown and what a grid holds; that all of them keep their promises is tested by contract."""

import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.spec.settings import SamplerConfig
from search.spec.space import Params, SearchSpace
from search.study.ledger import Ledger
from search.study.sampling.samplers import CANDIDATES, SamplingContext, TakenPoints, _as_completed

Open = Callable[..., Ledger]
Spell = tuple[TrialState, list[float], bool]
GOOD = True


def frozen(number: int, state: TrialState, curve: list[float], trainable: bool) -> FrozenTrial:
    trial = optuna.trial.create_trial(
        state=state,
        value=max(curve) if state == TrialState.COMPLETE else None,
        intermediate_values=dict(enumerate(curve, start=1)),
        constraints=None if trainable else {"can be trained": 1.0},
    )
    trial.number = number
    return trial


def shown(*spells: Spell) -> list[float | None]:
    trials = _as_completed([frozen(number, *spell) for number, spell in enumerate(spells)])
    return [trial.value if trial.state == TrialState.COMPLETE else None for trial in trials]


def test_a_pruned_trial_is_shown_grown_as_completed_ones_grew() -> None:
    values = shown(
        (TrialState.COMPLETE, [0.2, 0.4, 0.8], GOOD),
        (TrialState.COMPLETE, [0.2, 0.3, 0.4], GOOD),
        (TrialState.PRUNED, [0.1], GOOD),
        (TrialState.PRUNED, [0.1, 0.35], GOOD),
    )
    assert values == pytest.approx([0.8, 0.4, 0.1 * 1.2 / 0.4, 0.35 * 1.2 / 0.7])


def test_a_pruned_trial_counts_as_it_is_where_nothing_shows_how_it_would_have_grown() -> None:
    assert shown((TrialState.PRUNED, [0.1, 0.3, 0.2], GOOD)) == [0.3]
    assert shown((TrialState.COMPLETE, [0.0, 0.5], GOOD), (TrialState.PRUNED, [0.1], GOOD)) == [0.5, 0.1]


def test_what_cannot_be_trained_is_shown_below_all_that_ran() -> None:
    values = shown(
        (TrialState.COMPLETE, [0.5], GOOD),
        (TrialState.COMPLETE, [0.7], GOOD),
        (TrialState.PRUNED, [0.9], not GOOD),
        (TrialState.PRUNED, [], not GOOD),
    )
    assert values == pytest.approx([0.5, 0.7, 0.3, 0.3])
    assert shown((TrialState.COMPLETE, [0.5], GOOD), (TrialState.PRUNED, [], not GOOD)) == pytest.approx([0.5, -0.5])


def test_running_crashed_and_empty_trials_are_shown_as_they_are_and_the_study_is_left_alone() -> None:
    trials = [
        frozen(0, TrialState.RUNNING, [0.5], GOOD),
        frozen(1, TrialState.FAIL, [0.5], GOOD),
        frozen(2, TrialState.PRUNED, [], GOOD),
        frozen(3, TrialState.PRUNED, [0.5], GOOD),
    ]
    assert [trial.state for trial in _as_completed(trials)] == [t.state for t in trials[:3]] + [TrialState.COMPLETE]
    assert trials[3].state == TrialState.PRUNED


def test_every_sampler_of_the_settings_has_a_maker() -> None:
    names = SamplerConfig.model_json_schema()["properties"]["name"]["enum"]
    assert sorted(CANDIDATES) == sorted(names)


GRID = {
    "optim.lr": {"log": [1e-4, 1e-2]},
    "schedule": {"choice": {"cosine_restarts": {"t0": {"choice": [5, 10]}, "t_mult": 2}, "polynomial": None}},
}


def run_through(ledger: Ledger) -> list[Params]:
    points = []
    while not ledger.is_exhausted():
        number = ledger.ask()
        points.append(ledger.draw_params(number))
        ledger.finish(number, Outcome.INFEASIBLE)
    return points


def test_a_grid_is_the_defaults_and_then_every_point_in_order(tmp_path: Path) -> None:
    space = SearchSpace(GRID, TrainConfig(), "file")
    ledger = Ledger(f"sqlite:///{tmp_path / 'grid.db'}", "search", space, SamplerConfig(name="grid", points=3))
    points = run_through(ledger)
    assert points[0] == space.params(TrainConfig())
    short, long, polynomial = (
        {"schedule": "cosine_restarts", "schedule.cosine_restarts.t0": 5},
        {"schedule": "cosine_restarts", "schedule.cosine_restarts.t0": 10},
        {"schedule": "polynomial"},
    )
    grid = [{"optim.lr": lr, **rest} for lr in (1e-4, 1e-3, 1e-2) for rest in (short, long, polynomial)]
    grid = [point for point in grid if space.config(point) != TrainConfig()]
    assert len(points[1:]) == len(grid)
    for point, expected in zip(points[1:], grid, strict=True):
        assert math.isclose(float(point.pop("optim.lr")), expected.pop("optim.lr"))  # type: ignore[arg-type]
        assert point == expected


def test_a_crashed_point_of_a_grid_comes_again_after_all_others(tmp_path: Path) -> None:
    space = SearchSpace({"T": {"choice": [1, 2, 3, 4]}}, TrainConfig(), "file")
    ledger = Ledger(f"sqlite:///{tmp_path / 'grid.db'}", "search", space, SamplerConfig(name="grid"))
    for outcome in (Outcome.INFEASIBLE, Outcome.CRASHED):
        number = ledger.ask()
        ledger.draw_params(number)
        ledger.finish(number, outcome)
    assert run_through(ledger) == [{"T": 3}, {"T": 4}, {"T": 2}]


def test_a_point_in_a_continuous_space_is_the_samplers_first_draw(open_ledger: Open, space: SearchSpace) -> None:
    """Drawing anew is for points that ran before; where that cannot be, streams stay as they were."""
    ledger = open_ledger(name="study", startup=30)
    ledger.draw_params(ledger.ask())
    point = ledger.draw_params(ledger.ask())
    frozen_trial = ledger.study.get_trials()[1]
    sampling_context = SamplingContext(ledger.study, frozen_trial, SamplerConfig(startup=30), space)
    expected = optuna.samplers.RandomSampler(seed=sampling_context.seed(0))
    draws = [
        expected.sample_independent(ledger.study, frozen_trial, r.name, r.distribution) for r in space.parameters(point)
    ]
    assert list(point.values()) == draws


def test_a_trial_with_some_parameters_given_from_outside_gets_the_rest(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    ledger.draw_params(ledger.ask())
    ledger.study.enqueue_trial({"schedule": "cosine_restarts", "T": 3})
    params = ledger.draw_params(ledger.ask())
    assert (params["schedule"], params["T"]) == ("cosine_restarts", 3)
    assert space.fault(params) is None


def trial_at(x: float, state: TrialState, number: int) -> FrozenTrial:
    value = 0.5 if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, params={"x": x}, distributions={"x": FloatDistribution(0, 9)})
    trial.number = number
    return trial


def test_a_point_is_taken_while_a_trial_holds_it() -> None:
    taken = TakenPoints()

    taken.update(trial_at(1.0, TrialState.COMPLETE, 0))
    taken.update(trial_at(1.0, TrialState.COMPLETE, 1))
    taken.update(trial_at(2.0, TrialState.WAITING, 2))
    assert taken.holds({"x": 1.0}, but=0)  # the other one has it too
    assert not taken.holds({"x": 2.0})
    taken.update(trial_at(1.0, TrialState.FAIL, 1))
    assert taken.holds({"x": 1.0})
    assert not taken.holds({"x": 1.0}, but=0)
    assert len(taken) == 1
