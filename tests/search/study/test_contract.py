"""What holds for every sampler under every scheduler: real study, real rules, curves from a formula."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
from curves import dice_after, epoch_result

from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.placement.memory import Placement
from search.spec.settings import BudgetConfig, ObjectiveConfig, SamplerConfig, SchedulerConfig
from search.spec.space import Range, SearchSpace, Value, suggest_one
from search.study.conductor import Conductor
from search.study.ledger import Ledger, TrialRecord
from search.study.objectives.pareto import COSTS, Cost, FrontGuard, cost_of
from search.study.scheduling.schedulers import Decision, Scheduler, build_scheduler

SAMPLERS = get_args(SamplerConfig.model_fields["name"].annotation)
SCHEDULERS = get_args(SchedulerConfig.model_fields["name"].annotation)
RANGES: dict[str, Any] = {
    "T": {"choice": [1, 2]},
    "optim.lr": {"log": [1e-4, 1e-2]},
    "fusion.local": {"uniform": [0.5, 0.9]},
    "schedule": {"choice": {"cosine_restarts": {"t0": {"int": [5, 10]}, "t_mult": 2}, "polynomial": None}},
}
EPOCHS, TRIALS, STARTUP = 3, 6, 3


class Killed(Exception):
    """Stands for kill -9: nothing runs after it, not even the lines of a `finally` of ours."""


class Clock:
    """Counts calls, and kills at the one it is set to."""

    def __init__(self) -> None:
        self.left: float = float("inf")

    def tick(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Killed


class MortalSpace(SearchSpace):
    """A space in which a program can die between two parameters of a trial."""

    clock = Clock()

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        def choose(searched: Range) -> Value:
            self.clock.tick()
            return suggest_one(trial, searched)

        return self.walk(choose)


@dataclass(frozen=True)
class Search:
    """One search, opened again and again as restarted programs do."""

    url: str
    sampler: SamplerConfig
    scheduler: SchedulerConfig
    space: MortalSpace
    cost: Cost | None = None
    trials: int = TRIALS
    epochs: int = EPOCHS

    def ledger(self) -> Ledger:
        return Ledger(self.url, "search", self.space, self.sampler, self.cost.of if self.cost else None)

    def run(self, die_after: float = float("inf")) -> Scheduler:
        """Run to the end, one trial at a time, or until the given call."""
        clock = self.space.clock
        clock.left = die_after
        scheduler = build_scheduler(self.scheduler, self.epochs)
        ledger = self.ledger()
        conductor = Conductor(
            ledger,
            self.space,
            FrontGuard(scheduler, ledger.trials, self.cost) if self.cost else scheduler,
            budget=BudgetConfig(trials=self.trials),
            epochs=self.epochs,
            place=lambda config, begun: Placement(0.0, begun or 1, memory_bytes=1e9 * config.T),
        )
        while (proposal := conductor.next_trial()) is not None:
            clock.tick()
            if proposal.config.optim.lr > 8e-3:
                conductor.finish(proposal.number, Outcome.DIVERGED)
                continue
            for epoch in range(proposal.known_epochs + 1, self.epochs + 1):
                clock.tick()
                result = epoch_result(epoch, dice_after(proposal.config, epoch))
                if conductor.report(proposal.number, result) == Decision.STOP:
                    break
            else:
                clock.tick()
                conductor.finish(proposal.number, Outcome.COMPLETED)
            clock.tick()
        clock.left = float("inf")
        return scheduler

    def run_with_kills(self, seed: int) -> None:
        draw = random.Random(seed)
        while True:
            try:
                self.run(die_after=draw.randint(2, 40))
                return
            except Killed:
                continue


def essence(trial: TrialRecord) -> tuple[object, ...]:
    return trial.number, trial.params, trial.curve, trial.outcome


@dataclass(frozen=True)
class Lived:
    """A search that went through to its end, its trials, and the scheduler as it was then."""

    search: Search
    killed: Search
    scheduler: Scheduler
    trials: list[TrialRecord]


@pytest.fixture(scope="module")
def space() -> MortalSpace:
    return MortalSpace(RANGES, TrainConfig(), "file")


@pytest.fixture(
    scope="module",
    params=[
        *((sampler, scheduler, "none") for sampler in SAMPLERS for scheduler in SCHEDULERS),
        *((sampler, "asha", cost) for sampler in SAMPLERS if sampler != "cmaes" for cost in COSTS),
    ],
    ids="-".join,
)
def lived(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, space: MortalSpace) -> Lived:
    """Every sampler with every scheduler, and with every cost that it can measure, run once for all contracts."""
    sampler, scheduler, cost = request.param
    folder = tmp_path_factory.mktemp("studies")

    def search(name: str) -> Search:
        return Search(
            f"sqlite:///{folder / name}.db",
            SamplerConfig(name=sampler, startup=STARTUP),
            SchedulerConfig(name=scheduler, grace=1, reduction=2),
            space,
            cost_of(ObjectiveConfig(cost=cost)),
        )

    scheduler_then = search("whole").run()
    return Lived(search("whole"), search("killed"), scheduler_then, search("whole").ledger().trials())


def test_a_search_runs_to_its_budget_from_the_defaults_through_points_of_the_space(lived: Lived) -> None:
    trials = lived.trials
    assert len(trials) == TRIALS
    assert all(trial.outcome is not None for trial in trials)
    assert lived.search.space.config(trials[0].params) == TrainConfig()
    assert [lived.search.space.fault(trial.params) for trial in trials] == [None] * TRIALS
    assert len({str(trial.params) for trial in trials}) == TRIALS


def test_a_search_killed_anywhere_ends_with_the_same_study(lived: Lived, request: pytest.FixtureRequest) -> None:
    lived.killed.run_with_kills(seed=len(request.node.name))
    assert [essence(trial) for trial in lived.killed.ledger().trials()] == [essence(trial) for trial in lived.trials]


def test_curves_recalled_equal_curves_lived(lived: Lived) -> None:
    recalled = build_scheduler(lived.search.scheduler, EPOCHS)
    for trial in reversed(lived.trials):
        recalled.recall(trial.number, trial.curve)
    assert memory(recalled) == memory(lived.scheduler)


def memory(scheduler: Scheduler) -> object:
    """All that a scheduler holds, brackets opened."""
    brackets = getattr(scheduler, "brackets", [scheduler])
    return [vars(bracket) for bracket in brackets]


# --- samplers alone ---------------------------------------------------------------------------------------------

Open = Callable[..., Search]


@pytest.fixture
def open_search(tmp_path: Path) -> Open:
    def open_it(sampler: str, ranges: dict[str, Any] = RANGES, name: str = "study", **settings: Any) -> Search:
        fields = {field: settings.pop(field) for field in ("trials", "epochs") if field in settings}
        return Search(
            f"sqlite:///{tmp_path / name}.db",
            SamplerConfig(**{"name": sampler, "startup": STARTUP, **settings}),
            SchedulerConfig(name="none"),
            MortalSpace(ranges, TrainConfig(), "file"),
            **fields,
        )

    return open_it


def test_cmaes_keeps_its_distribution_in_the_study(open_search: Open) -> None:
    """Two generations of six, of which the second is drawn from what the first taught, restarts or not."""
    whole, killed = (open_search("cmaes", name=name, trials=15, epochs=1, startup=2) for name in ("whole", "killed"))
    whole.run()
    killed.run_with_kills(seed=3)
    frozen = whole.ledger().study.get_trials(deepcopy=False)
    assert any(key.startswith("cma:optimizer") for trial in frozen for key in trial.system_attrs)
    assert [essence(t) for t in killed.ledger().trials()] == [essence(t) for t in whole.ledger().trials()]


NINE: dict[str, Any] = {
    "T": {"choice": [1, 2, 3]},
    "schedule": {"choice": {"cosine_restarts": {"t0": {"int": [9, 10]}, "t_mult": 2}, "polynomial": None}},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finite_space_is_run_through_once_and_ends_the_search(open_search: Open, sampler: str) -> None:
    search = open_search(sampler, NINE, trials=64, epochs=1, startup=6)
    search.run_with_kills(seed=1)
    points = [trial.params for trial in search.ledger().trials()]
    assert len(points) == 9
    assert all(point in points for point in search.space.points())
    assert search.ledger().is_exhausted()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_running_trial_is_not_proposed_again_and_a_crashed_one_may_be(open_search: Open, sampler: str) -> None:
    search = open_search(sampler, {"T": {"choice": [1, 2]}})
    ledger = search.ledger()
    first, second = ledger.ask(), ledger.ask()
    assert [ledger.draw_params(number) for number in (first, second)] == [{"T": 1}, {"T": 2}]
    assert ledger.is_exhausted()
    ledger.finish(second, Outcome.CRASHED)
    assert not ledger.is_exhausted()
    assert ledger.draw_params(ledger.ask()) == {"T": 2}


def untrainable(search: Search, trials: int) -> tuple[int, int]:
    """Trials above a learning rate, which all diverge, in the first and in the last third of a search."""
    ledger = search.ledger()
    rates: list[float] = []
    for _ in range(trials):
        number = ledger.ask()
        config = search.space.config(ledger.draw_params(number))
        rates.append(config.optim.lr)
        if rates[-1] > 1e-3:
            ledger.finish(number, Outcome.DIVERGED)
        else:
            ledger.record_epoch(number, 1, dice_after(config, 1), 1.0)
            ledger.finish(number, Outcome.PRUNED if number % 2 else Outcome.COMPLETED)
    third = trials // 3
    return sum(rate > 1e-3 for rate in rates[:third]), sum(rate > 1e-3 for rate in rates[-third:])


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_a_region_that_cannot_be_trained_is_left(open_search: Open, sampler: str) -> None:
    """Half of the range diverges, and in the formula of the curves that half holds the optimum."""
    first, last = untrainable(open_search(sampler, startup=8), 21)
    assert last < first
