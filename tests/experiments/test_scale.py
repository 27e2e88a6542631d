"""The simulated fleet: a virtual clock around the real conductor and the real study."""

import json
from pathlib import Path

import pytest

from experiments import scale
from experiments.scale import RecordedCourses, Setting, Simulation, SyntheticCourses, fill, main, simulate, summary
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.spec.settings import BudgetConfig, SamplerConfig
from search.spec.space import SearchSpace
from search.study.conductor import Conductor
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import Asha, NoScheduler, Scheduler

RANGES = {"T": {"choice": [1, 2, 3]}, "optim.lr": {"log": [1e-4, 1e-2]}}
EPOCHS = 4


class EqualCourses:
    """Every epoch of every trial takes a minute."""

    label = "equal"

    def course(self, number: int, config: TrainConfig, epochs: int) -> tuple[list[float], float]:
        return [0.1 * epoch for epoch in range(1, epochs + 1)], 60.0


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace(RANGES, TrainConfig(), "file")


def simulation(path: Path, space: SearchSpace, workers: int, trials: int, scheduler: Scheduler, cost: float = 0.0):
    """A simulation in which every decision takes ``cost`` seconds."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += cost
        return now

    ledger = Ledger(f"sqlite:///{path / f'{workers}-{cost}.db'}", "s", space, SamplerConfig(name="random"))
    conductor = Conductor(ledger, space, scheduler, budget=BudgetConfig(trials=trials), epochs=EPOCHS)
    return ledger, Simulation(conductor, EqualCourses(), workers=workers, epochs=EPOCHS, clock=clock)


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_every_trial_starts_once_and_ends_once(tmp_path: Path, space: SearchSpace, workers: int) -> None:
    ledger, simulated = simulation(tmp_path, space, workers, 12, Asha(1, 3, EPOCHS))
    fleet = simulated.run()
    trials = ledger.trials()
    assert [trial.number for trial in trials] == list(range(12))
    assert {trial.outcome for trial in trials} <= {Outcome.COMPLETED, Outcome.PRUNED}
    assert len(fleet.costs.next_trial) == 12
    assert len(fleet.costs.report) == sum(len(trial.curve) for trial in trials)
    assert fleet.ended <= 12


def test_with_free_decisions_n_workers_do_n_times_the_work(tmp_path: Path, space: SearchSpace) -> None:
    one = simulation(tmp_path, space, 1, 10, NoScheduler())[1].run()
    many = simulation(tmp_path, space, 10, 50, NoScheduler())[1].run()
    assert one.trials_an_hour == pytest.approx(60 / EPOCHS)
    assert many.trials_an_hour / one.trials_an_hour == pytest.approx(10)
    assert summary(one, one)["efficiency"] == 1
    assert summary(many, one)["efficiency"] == pytest.approx(1)


def test_one_driver_serves_all_so_its_cost_bounds_the_fleet(tmp_path: Path, space: SearchSpace) -> None:
    """At 15 s a decision and 60 s an epoch the driver keeps 4 workers busy reporting, and no more."""
    few = simulation(tmp_path, space, 2, 10, NoScheduler(), cost=15.0)[1].run()
    many = simulation(tmp_path, space, 20, 60, NoScheduler(), cost=15.0)[1].run()
    decisions = len(many.costs.next_trial) + len(many.costs.report) + len(many.costs.finish)
    assert many.trials_an_hour < 3600 / 15 / (EPOCHS + 2) * 1.05
    assert few.training_share > 2 * many.training_share
    assert decisions == 60 * (EPOCHS + 2)


def test_a_filled_study_is_one_that_the_ledger_and_optuna_read(tmp_path: Path, space: SearchSpace) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    ledger = Ledger(url, "s", space, SamplerConfig(startup=4))
    fill(ledger.engine, "s", space, SyntheticCourses(60.0), 30)
    ledger = Ledger(url, "s", space, SamplerConfig(startup=4))
    trials = ledger.trials()
    assert len(trials) == 30
    assert all(len(trial.curve) == scale.FILLED_EPOCHS and trial.is_usable for trial in trials)
    for trial in trials:
        space.config(trial.params)
    ledger.draw_params(ledger.ask())
    assert [t.number for t in ledger.study.get_trials()] == list(range(31))


def test_recorded_courses_are_those_of_the_run(tmp_path: Path, space: SearchSpace) -> None:
    (tmp_path / "run").mkdir()
    ledger = Ledger(f"sqlite:///{tmp_path / 'run' / 'study.db'}", "search", space, SamplerConfig())
    number = ledger.ask()
    ledger.draw_params(number)
    for epoch, value in enumerate((0.2, 0.4), start=1):
        ledger.record_epoch(number, epoch, value, 7.0 * epoch)
    ledger.finish(number, Outcome.PRUNED)
    courses = RecordedCourses.of_run(tmp_path / "run")
    assert courses.course(5, TrainConfig(), 4) == ([0.2, 0.4, 0.4, 0.4], 7.0)


def test_the_command_reports_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scale.json"
    arguments = ["--workers", "1", "3", "--trials", "8", "--filled", "5", "--set", "train.epochs=6", "--out", str(out)]
    assert main(arguments) == 0
    assert "SYNTHETIC" in capsys.readouterr().out
    written = json.loads(out.read_text(encoding="utf-8"))
    assert [fleet["workers"] for fleet in written["fleets"]] == [1, 3]
    assert written["fleets"][0]["efficiency"] == 1
    assert written["fleets"][0]["decision_ms"]["next_trial"]["count"] == 8


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trials", "0"],
        ["--workers", "0"],
        ["--run", "nowhere"],
        ["--out", "nowhere/scale.json"],
        ["--study", "no-such-database://"],
        ["--set", "train.epoch=3"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_database_that_was_used_before_is_refused(tmp_path: Path, space: SearchSpace) -> None:
    from search.spec.settings import Overrides, load_spec

    spec = load_spec(Path("spaces/lcnn.yaml"), Overrides("cpu"), has_gpu=False)
    setting = Setting(spec, EqualCourses(), trials=2)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    simulate(setting, 1, url, "s")
    with pytest.raises(scale.InputError, match="choose another database"):
        simulate(setting, 1, url, "s")
