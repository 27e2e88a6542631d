"""Trials of different shares on GPUs that Ray believes in; the trainings themselves run on the CPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_cohort import SIDE, TINY, tiny_context
from watched_actor import WaitingActor, ray_that_finds_us, read_log

from lcnn.dotted import replaced
from lcnn.outcome import Outcome
from search.execution.tune_search import run_trials
from search.placement.memory import MemoryPlan, MemoryProfile
from search.placement.resources import Slots, slots_by_memory
from search.spec.settings import BudgetConfig, ResourcesConfig, SamplerConfig, SchedulerConfig
from search.spec.space import SearchSpace
from search.study.conductor import Conductor
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import build_scheduler

GPUS, TRIALS, SEED = 2, 5, 65
SHARES = {1: 0.25, 2: 0.5, 3: 1.0}
"""By T, as they follow from the uses below on a pool of 1000 bytes."""
PLAN = MemoryPlan(
    pool_bytes=1000,
    context_bytes=10,
    image_size=SIDE,
    grid={"T": tuple(SHARES)},
    peaks={MemoryProfile.of(replaced(TINY, {"T": T}), SIDE): peak for T, peak in ((1, 200.0), (2, 430.0), (3, 860.0))},
    shares=16,
)
SLOTS = slots_by_memory(ResourcesConfig(trials_at_once=8), Slots(2, 1, 1.0, GPUS, "cpu"), PLAN, cores=2)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with ray_that_finds_us(SLOTS):
        yield


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A row a trial: its number, share and GPU, when its first step began and its last one ended."""
    folder: Path = tmp_path_factory.mktemp("placement")
    # The learning rate is only there so that no two trials have the same point: none would be run twice.
    ranges = {"T": {"choice": list(SHARES)}, "optim.lr": {"log": [1e-4, 1e-2]}}
    space = SearchSpace(ranges, TINY, "file")
    ledger = Ledger(f"sqlite:///{folder / 'study.db'}", "search", space, SamplerConfig(name="random", seed=SEED))
    epochs = TINY.train.epochs
    scheduler = build_scheduler(SchedulerConfig(name="none"), epochs)
    conductor = Conductor(
        ledger, space, scheduler, budget=BudgetConfig(trials=TRIALS), epochs=epochs, place=SLOTS.place
    )
    run_trials(conductor, tiny_context(folder, SLOTS), WaitingActor)
    trials = ledger.trials()
    assert [trial.outcome for trial in trials] == [Outcome.COMPLETED] * TRIALS
    rows = []
    for trial in trials:
        steps = [entry for entry in read_log(folder / "steps.jsonl") if entry["number"] == trial.number]
        assert len({step["gpu"] for step in steps}) == 1
        first, last = steps[0], steps[-1]
        assert first["share"] == SHARES[int(trial.params["T"])]  # type: ignore[arg-type]
        rows.append({**first, "begin": first["time"], "end": last["time"], "gpu": first["gpu"]})
    return rows


def test_every_share_was_tried(spans: list[dict[str, Any]]) -> None:
    assert {span["share"] for span in spans} == set(SHARES.values())


def test_each_trial_sees_one_of_the_gpus(spans: list[dict[str, Any]]) -> None:
    assert {span["gpu"] for span in spans} <= {"0", "1"}


def test_no_gpu_is_overbooked(spans: list[dict[str, Any]]) -> None:
    for moment in (span["begin"] for span in spans):
        for gpu in ("0", "1"):
            running = [s for s in spans if s["gpu"] == gpu and s["begin"] <= moment <= s["end"]]
            assert sum(span["share"] for span in running) <= 1.0, running


def test_small_trials_run_side_by_side(spans: list[dict[str, Any]]) -> None:
    # Trials 0 and 1 wait for each other, so the search would not have ended otherwise.
    assert spans[0]["begin"] < spans[1]["end"]
    assert spans[1]["begin"] < spans[0]["end"]


def test_as_many_small_trials_as_fit_are_drawn_and_no_more() -> None:
    assert SLOTS.at_once == 8
    assert SLOTS.has_room([0.25] * 7)
    assert not SLOTS.has_room([0.25] * 8)
    assert SLOTS.has_room([1.0, 0.5, 0.25])
    assert not SLOTS.has_room([1.0, 1.0])


def test_where_the_largest_fit_as_often_as_cores_allow_all_shares_are_alike() -> None:
    two = slots_by_memory(ResourcesConfig(trials_at_once=2), Slots(2, 1, 1.0, GPUS, "cpu"), PLAN, cores=2)
    for T in SHARES:
        placement = two.place(replaced(TINY, {"T": T}))
        assert placement is not None
        assert placement.share == 1.0
    assert two.has_room([1.0])
    assert not two.has_room([1.0, 1.0])
