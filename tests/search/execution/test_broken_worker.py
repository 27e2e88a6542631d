"""A worker of a real Ray that is killed in the middle of a trial: the trial goes on, twice, and then has crashed."""

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import curves
import pytest
import quick
import ray
from quick import EPOCHS, KILLED, QuickActor, quick_context, read_diary

from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult
from search.execution.trial import TrialContext
from search.execution.tune_search import ray_running, run_trials
from search.placement.resources import Slots
from search.spec.settings import BudgetConfig
from search.spec.space import SearchSpace
from search.study.conductor import CRASH_RETRIES, Conductor, Event
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import NoScheduler

Open = Callable[..., Ledger]
SLOTS = Slots(2, 1, 0.0, 0, "cpu")
TRIALS = 4
UNLUCKY, HOPELESS = 1, 2
"""Trials whose worker is killed once, and, in `make test-deep`, whenever it has trained an epoch."""


class NamedActor(QuickActor):
    """Leaves the number of its process beside its trial's diary."""

    def start(self, key: str, config: TrainConfig, share: float) -> Generator[EpochResult, None, Outcome]:
        (self._context.folder / f"{key}.pid").write_text(str(os.getpid()))
        return super().start(key, config, share)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[TrialContext]:
    """Of trials whose node is not to die."""
    context = quick_context(tmp_path / "run", SLOTS, checkpoints=None)
    (context.folder / KILLED).write_text("no node")
    modules = [quick, curves, __import__(__name__)]
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    yield context
    for module in modules:
        ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.parametrize("hopeless", [None, pytest.param(HOPELESS, marks=pytest.mark.deep)], ids=["once", "always"])
def test_a_killed_worker_costs_nothing_and_one_that_is_always_killed_ends_crashed(
    open_ledger: Open, space: SearchSpace, context: TrialContext, hopeless: int | None
) -> None:
    ledger = open_ledger()
    killed: list[int] = []

    def on_event(event: Event) -> None:
        number, epoch = event.trial.number, len(event.trial.curve)
        if event.kind == "epoch" and (number == hopeless or (number == UNLUCKY and epoch == 4)):
            os.kill(int((context.folder / f"{number}.pid").read_text()), signal.SIGKILL)
            killed.append(number)

    conductor = Conductor(
        ledger, space, NoScheduler(), budget=BudgetConfig(trials=TRIALS), epochs=EPOCHS, on_event=on_event
    )
    with ray_running(SLOTS):
        run_trials(conductor, context, NamedActor)

    outcomes = {trial.number: trial.outcome for trial in ledger.trials()}
    others = set(outcomes) - {hopeless}
    if hopeless is not None:
        assert outcomes[hopeless] == Outcome.CRASHED
        assert killed.count(hopeless) == 1 + CRASH_RETRIES
    assert killed.count(UNLUCKY) == 1
    assert {outcomes[number] for number in others} == {Outcome.COMPLETED}
    assert len(others) == TRIALS  # the crash was the machine's fault and cost no trial of the budget
    for number in others:
        epochs = [epoch for _, epoch in read_diary(context, number)]
        assert sorted(set(epochs)) == list(range(1, EPOCHS + 1))
        repeated = len(epochs) - EPOCHS
        assert repeated <= (number == UNLUCKY)  # at most the epoch that was in the air
