"""The study in memory: always what the database holds, and no dearer the longer the study."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from curves import epoch_result
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from experiments.scale import SyntheticCourses, fill
from lcnn.outcome import Outcome
from search.spec.settings import BudgetConfig
from search.spec.space import SearchSpace
from search.study.conductor import Conductor
from search.study.ledger import Ledger, _record
from search.study.scheduling.schedulers import NoScheduler
from search.study.storage import StudyStorage

Open = Callable[..., Ledger]
OUTCOMES = (Outcome.COMPLETED, Outcome.PRUNED, Outcome.DIVERGED, Outcome.INFEASIBLE, Outcome.CRASHED)


def stock_study(path: Path) -> optuna.Study:
    """The same study, as a program that knows only Optuna opens it."""
    return optuna.load_study(study_name="search", storage=f"sqlite:///{path / 'study.db'}")


def contents(trials: list[FrozenTrial]) -> list[dict[str, object]]:
    return [vars(trial) for trial in trials]


def as_text(trials: list[FrozenTrial]) -> list[str]:
    """The contents in a fixed order, and as text, for NaN differs from itself."""
    return [
        repr([sorted(part.items()) if isinstance(part, dict) else part for part in trial.values()])
        for trial in contents(trials)
    ]


class Life:
    """Random but possible events in a search, with restarts and another program's writes among them."""

    def __init__(self, open_it: Open, folder: Path, seed: int) -> None:
        self.open_it, self.folder, self.draw = open_it, folder, random.Random(seed)
        self.ledger = open_it()

    def step(self) -> None:
        running = [t.number for t in self.ledger.trials() if t.outcome is None]
        events = ["ask", "ask", "reopen", "foreign"] + ["epoch"] * 6 + ["finish"] * 2
        match self.draw.choice(events):
            case "ask":
                self.ledger.draw_params(self.ledger.ask())
            case "reopen":
                self.ledger = self.open_it()
            case "foreign":
                self.foreign()
            case "epoch" if running:
                number = self.draw.choice(running)
                epoch = len(self.ledger.trial(number).curve) + 1
                self.ledger.record_epoch(number, epoch, self.draw.random(), 2.0 * epoch)
            case "finish" if running:
                number = self.draw.choice(running)
                reached = OUTCOMES if self.ledger.trial(number).curve else OUTCOMES[1:]
                self.ledger.finish(number, self.draw.choice(reached), self.draw.choice([None, "why"]))
            case _:
                pass

    def foreign(self) -> None:
        study = stock_study(self.folder)
        if not study.trials:
            return
        trial = study.ask()
        trial.suggest_categorical("T", [1, 2, 3])
        trial.report(0.3, 1)
        if self.draw.random() < 0.5:
            study.tell(trial, 0.3)
        study.set_user_attr("note", self.draw.random())


@pytest.mark.parametrize("seed", range(3))
def test_memory_equals_the_database_after_anything(open_ledger: Open, tmp_path: Path, seed: int) -> None:
    life = Life(open_ledger, tmp_path, seed)
    for step in range(60):
        life.step()
        if step % 10:
            continue
        stock = stock_study(tmp_path)
        assert contents(life.ledger.study.get_trials()) == contents(stock.trials)
        assert life.ledger.trials() == [_record(trial) for trial in stock.trials]
        assert life.ledger.study.user_attrs == stock.user_attrs
    fresh = open_ledger()
    assert life.ledger.trials() == fresh.trials()
    assert (len(life.ledger), life.ledger.counted()) == (len(fresh), fresh.counted())
    assert life.ledger.counted() == sum(t.outcome != Outcome.CRASHED for t in fresh.trials())


def statements_of_a_decision(ledger: Ledger, space: SearchSpace) -> dict[str, int]:
    """SQL statements of the second trial that is asked for, of its second epoch and of its end."""
    conductor = Conductor(ledger, space, NoScheduler(), budget=BudgetConfig(trials=10**6), epochs=9)
    counts: dict[str, int] = {}
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    sqlalchemy.event.listen(ledger.engine, "before_cursor_execute", count)
    for _ in range(2):
        statements = 0
        proposal = conductor.next_trial()
        assert proposal is not None
        counts["next"] = statements
    for epoch in (1, 2):
        statements = 0
        conductor.report(proposal.number, epoch_result(epoch, 0.5))
        counts["report"] = statements
    statements = 0
    conductor.finish(proposal.number, Outcome.PRUNED)
    return {**counts, "finish": statements}


def test_a_decision_costs_the_same_statements_however_long_the_study(open_ledger: Open, space: SearchSpace) -> None:
    counts = []
    for number in (100, 1000):
        ledger = open_ledger(f"filled{number}", seed=1)
        fill(ledger.engine, "search", space, SyntheticCourses(60.0), number)
        counts.append(statements_of_a_decision(open_ledger(f"filled{number}", seed=1), space))
    # A trial has 4 or 5 parameters, and each is a row.
    assert abs(counts[0].pop("next") - counts[1].pop("next")) <= 1
    assert counts[0] == counts[1]


def test_running_trials_cost_a_decision_nothing(open_ledger: Open, space: SearchSpace) -> None:
    counts = []
    for running in (2, 40):
        ledger = open_ledger(f"running{running}", startup=1000)
        for _ in range(running):
            ledger.draw_params(ledger.ask())
        conductor = Conductor(ledger, space, NoScheduler(), budget=BudgetConfig(trials=10**6), epochs=9)
        statements: list[object] = []
        sqlalchemy.event.listen(ledger.engine, "before_cursor_execute", lambda *event, s=statements: s.append(event[2]))
        conductor.report(0, epoch_result(1, 0.5))
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_what_an_error_interrupts_is_neither_in_memory_nor_in_the_database(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger()
    number = ledger.ask()
    ledger.draw_params(number)

    def interrupted() -> None:
        with ledger.study._storage.transaction():  # type: ignore[attr-defined]
            ledger.record_epoch(number, 1, 0.5, 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ledger.trial(number).curve == ()
    assert stock_study(tmp_path).trials[number].intermediate_values == {}


def test_a_trial_that_another_process_ended_is_not_written_to(open_ledger: Open, tmp_path: Path) -> None:
    ledger = open_ledger()
    number = ledger.ask()
    ledger.draw_params(number)
    stock_study(tmp_path).tell(number, state=TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        ledger.finish(number, Outcome.COMPLETED if ledger.trial(number).curve else Outcome.PRUNED)
    assert ledger.study.get_trials()[number].state == TrialState.FAIL


def test_a_reader_holds_up_nothing(open_ledger: Open, tmp_path: Path) -> None:
    """With SQLite's rollback journal a reader in a transaction would block the commit."""
    ledger = open_ledger()
    number = ledger.ask()
    reader = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'study.db'}")
    with reader.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT count(*) FROM trials").all()
        ledger.record_epoch(number, 1, 0.5, 1.0)
        connection.rollback()
    reader.dispose()
    assert stock_study(tmp_path).trials[number].intermediate_values == {1: 0.5}


KILLED = """
import os, signal, sys
from lcnn.config import TrainConfig
from search.study.ledger import Ledger
from search.spec.space import SearchSpace
from search.spec.settings import BudgetConfig, SamplerConfig
space = SearchSpace({"T": {"choice": [1, 2, 3]}}, TrainConfig(), "file")
ledger = Ledger(sys.argv[1], "search", space, SamplerConfig())
number = ledger.ask()
ledger.draw_params(number)
for epoch in range(1, 8):
    ledger.record_epoch(number, epoch, epoch / 10, float(epoch))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_nothing_that_it_recorded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    done = subprocess.run([sys.executable, "-c", KILLED, url], check=False)
    assert done.returncode == -signal.SIGKILL
    trial = stock_study(tmp_path).trials[0]
    assert len(trial.intermediate_values) == 7
    assert trial.user_attrs["seconds"] == 7.0
    assert list(trial.params) == ["T"]


def test_a_study_is_read_as_optuna_reads_it(tmp_path: Path, space: SearchSpace, open_ledger: Open) -> None:
    """Long and short curves, several objectives' worth of values, values that databases have no number for."""
    fill(open_ledger().engine, "search", space, SyntheticCourses(60.0), 50)
    study = stock_study(tmp_path)
    for value in (float("inf"), float("nan"), float("-inf"), 0.5):
        trial = study.ask()
        trial.suggest_float("x", 0, 1, log=False)
        trial.suggest_categorical("word", ["a", None, 1.5])
        trial.report(value, 2)
        trial.report(0.1, 1)
        trial.set_user_attr("nested", {"a": [1, None]})
        trial.set_constraint("fits", 1.0)
        if value > 0:
            study.tell(trial, value)
    study.enqueue_trial({"x": 0.25})
    opened = StudyStorage(f"sqlite:///{tmp_path / 'study.db'}")
    number = opened.get_study_id_from_name("search")
    assert as_text(opened.get_all_trials(number)) == as_text(study.trials)
    assert len(study.trials) == 55


@contextmanager
def monitored(statements: list[str]) -> Iterator[None]:
    """Collects the SQL statements of all databases that are opened and used in the block."""

    def note(*event: Any) -> None:
        statements.append(event[2])

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def test_opening_a_study_costs_the_same_statements_however_long_it_is(space: SearchSpace, open_ledger: Open) -> None:
    counts = []
    for number in (10, 500):
        engine = open_ledger(f"long{number}").engine
        fill(engine, "search", space, SyntheticCourses(60.0), number)
        statements: list[str] = []
        with monitored(statements):
            assert len(open_ledger(f"long{number}")) == number
        counts.append(len(statements))
    assert counts[0] == counts[1]
