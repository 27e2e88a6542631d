"""One worker for many trials: nothing of a trial reaches those after it, neither memory nor settings."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cohort import TINY, tiny_context
from watched_actor import DisturbedActor, ray_that_finds_us, read_log, train_config

from lcnn.checkpoint import load_checkpoint
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.execution.tune_search import run_trials
from search.placement.resources import Slots
from search.spec.settings import BudgetConfig, SamplerConfig, SchedulerConfig
from search.spec.space import SearchSpace
from search.study.conductor import Conductor
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import build_scheduler

TRIALS, FIFTH = 9, 4
SLOTS = Slots(1, 1, 0.0, 0, "cpu")
RANGES: dict[str, Any] = {
    "T": {"choice": [0, 1, 2]},
    "optim.lr": {"log": [1e-4, 1e-2]},
    "train.accumulation": {"choice": [1, 2]},
    "train.precision": {"choice": ["auto", "bf16"]},
}


def search(folder: Path, defaults: TrainConfig, trials: int) -> list[dict[str, Any]]:
    """Run a small search in one worker; what the worker logged."""
    folder.mkdir(exist_ok=True)
    space = SearchSpace(RANGES, defaults, "file")
    ledger = Ledger(f"sqlite:///{folder / 'study.db'}", "search", space, SamplerConfig(name="random"))
    epochs = defaults.train.epochs
    scheduler = build_scheduler(SchedulerConfig(name="none"), epochs)
    conductor = Conductor(
        ledger, space, scheduler, budget=BudgetConfig(trials=trials), epochs=epochs, place=SLOTS.place
    )
    run_trials(conductor, tiny_context(folder, SLOTS), DisturbedActor)
    assert [trial.outcome for trial in ledger.trials()] == [Outcome.COMPLETED] * trials
    return [entry for entry in read_log(folder / "steps.jsonl") if entry["event"] == "end"]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_that_finds_us(SLOTS):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reuse")


@pytest.fixture(scope="module")
def used(folder: Path) -> list[dict[str, Any]]:
    """Steps of trials that ran one after the other in the same worker."""
    return search(folder / "used", TINY, TRIALS)


@pytest.fixture(scope="module")
def fresh(folder: Path, used: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps of the fifth of those trials, run alone in a fresh worker."""
    fifth = next(entry for entry in used if entry["number"] == FIFTH)
    return search(folder / "fresh", train_config(fifth), 1)


def test_one_worker_runs_all_trials(used: list[dict[str, Any]], fresh: list[dict[str, Any]]) -> None:
    assert len({entry["pid"] for entry in used}) == 1
    assert {entry["number"] for entry in used} == set(range(TRIALS))
    assert fresh[0]["pid"] != used[0]["pid"]


def test_memory_does_not_grow_with_the_trials(used: list[dict[str, Any]]) -> None:
    after = {entry["number"]: entry["rss"] for entry in used}
    assert after[TRIALS - 1] < 1.05 * after[2], after


def test_a_trial_gives_the_same_bits_in_a_used_worker(folder: Path, fresh: list[dict[str, Any]]) -> None:
    states = [load_checkpoint(folder / name / "last.pt") for name in (f"used/trials/{FIFTH}", "fresh/trials/0")]
    first, second = ([{**epoch, "seconds": 0} for epoch in state["history"]] for state in states)
    assert json.dumps(first) == json.dumps(second)
    for part in ("model", "optimizer"):
        assert_same(states[0][part], states[1][part])


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


def test_global_state_does_not_depend_on_what_ran_before(
    used: list[dict[str, Any]], fresh: list[dict[str, Any]]
) -> None:
    fifth = [entry["state"] for entry in used if entry["number"] == FIFTH]
    assert fifth == [entry["state"] for entry in fresh]
    assert {entry["state"]["threads"] for entry in used} == {SLOTS.threads}
