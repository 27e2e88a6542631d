"""A finished run and the budget that the command gives it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcnn.outcome import Outcome
from search.commands.search import extended
from search.console.display import Display
from search.execution.searching import limit_reached
from search.run.evaluation import EVALUATION_FORMAT
from search.run.folder import RunFolder, write_spec
from search.run.opened import Run
from search.spec.settings import ConfirmConfig, Extension, Overrides, Spec, command_line_limits
from search.study.budget.limits import Limit
from search.study.ledger import Ledger


@pytest.fixture
def ledger(open_ledger: Callable[..., Ledger]) -> Ledger:
    """Three trials of one epoch, the first of them the best."""
    ledger = open_ledger()
    for value in (0.5, 0.3, 0.2):
        number = ledger.ask()
        ledger.draw_params(number)
        ledger.record_epoch(number, 1, value, 10.0)
        ledger.finish(number, Outcome.COMPLETED)
    return ledger


def finished(root: Path, spec: Spec, ledger: Ledger) -> None:
    """A run of an earlier version that has nothing left to do."""
    folder = RunFolder(root)
    write_spec(folder, spec)
    evaluation = {
        "format": EVALUATION_FORMAT,
        "trials": len(ledger),
        "confirm": spec.confirm.model_dump(),
        "confirmation": None,
        "exported": 0,
        "winner": 0,
        "epochs": {"winner": 1},
        "opening": "hash",
    }
    folder.evaluation.write_text(json.dumps(evaluation), encoding="utf-8")
    folder.report.touch()
    folder.model.mkdir()
    (folder.final / "0").mkdir(parents=True)
    (folder.final / "0" / "last.pt").touch()


def asked(root: Path, spec: Spec, ledger: Ledger) -> Run:
    """The run as a command with this space file opens it."""
    run = Run(spec, RunFolder(root), root.parent, Display(), "file")
    run.ledger = ledger
    return run


def spec_of(**budget: Any) -> Spec:
    ranges = {"optim.lr": {"log": [1e-4, 1e-2]}}
    return Spec(search=ranges, confirm=ConfirmConfig(top=0), budget=budget)


def test_a_run_that_ended_by_its_plateau_goes_on(
    tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of(trials=6, plateau=2)
    finished(tmp_path, spec, ledger)
    assert limit_reached(spec, ledger) == Limit.PLATEAU
    longer = extended(asked(tmp_path, spec, ledger), Extension(trials=2))
    assert (longer.budget.trials, longer.budget.plateau) == (5, None)
    assert limit_reached(longer, ledger) is None
    assert "budget.plateau = 2 was reached" in capsys.readouterr().out


def test_a_limit_of_the_command_line_stands_beside_an_extension(tmp_path: Path, ledger: Ledger) -> None:
    finished(tmp_path, spec_of(trials=6, plateau=2), ledger)
    limits = command_line_limits(Overrides(settings=("budget.plateau=7",)))
    run = asked(tmp_path, spec_of(trials=6, plateau=7), ledger)
    longer = extended(run, Extension(trials=2, limits=limits))
    assert (longer.budget.trials, longer.budget.plateau) == (5, 7)


def test_an_interrupted_extension_keeps_the_budget_that_it_was_given(tmp_path: Path, ledger: Ledger) -> None:
    before = spec_of(trials=3)
    finished(tmp_path, before, ledger)
    longer = extended(asked(tmp_path, before, ledger), Extension(trials=2))
    write_spec(RunFolder(tmp_path), longer)
    assert extended(asked(tmp_path, before, ledger), Extension(trials=2)).budget.trials == 5


def test_the_command_line_names_the_limits_that_it_sets() -> None:
    given = Overrides(settings=("budget.plateau=null", "train.epochs=2", "budget={target: 0.5}"), trials=4)
    assert set(command_line_limits(given)) == {"target", "trials"}  # a section as a whole replaces what was set before
    assert command_line_limits(Overrides(settings=("budget.plateau=null",))) == ("plateau",)
