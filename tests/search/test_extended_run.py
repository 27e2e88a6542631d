"""A finished run and the budget that the command gives it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcnn.outcome import Outcome
from search.console.display import Display
from search.execution.searching import limit_reached
from search.run.folder import RunFolder, write_spec
from search.runner import EVALUATION_FORMAT, extended
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


def finished(root: Path, spec: Spec, ledger: Ledger) -> RunFolder:
    """A run that has nothing left to do."""
    run = RunFolder(root)
    write_spec(run, spec)
    evaluation = {"trials": len(ledger), "confirm": spec.confirm.model_dump(), "exported": 0, "winner": 0}
    run.evaluation.write_text(json.dumps({"format": EVALUATION_FORMAT, **evaluation}), encoding="utf-8")
    return run


def spec_of(**budget: Any) -> Spec:
    return Spec(confirm=ConfirmConfig(top=0), budget=budget)


def test_a_run_that_ended_by_its_plateau_goes_on(
    tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of(trials=6, plateau=2)
    run = finished(tmp_path, spec, ledger)
    assert limit_reached(spec, ledger) == Limit.PLATEAU
    longer = extended(spec, run, ledger, Extension(trials=2), Display())
    assert (longer.budget.trials, longer.budget.plateau) == (5, None)
    assert limit_reached(longer, ledger) is None
    assert "budget.plateau = 2 was reached" in capsys.readouterr().out


def test_a_limit_of_the_command_line_stands_beside_an_extension(tmp_path: Path, ledger: Ledger) -> None:
    run = finished(tmp_path, spec_of(trials=6, plateau=2), ledger)
    asked = Overrides(settings=("budget.plateau=7",))
    longer = extended(
        spec_of(trials=6, plateau=7),
        run,
        ledger,
        Extension(trials=2, limits=command_line_limits(asked)),
        Display(),
    )
    assert (longer.budget.trials, longer.budget.plateau) == (5, 7)


def test_an_interrupted_extension_keeps_the_budget_that_it_was_given(tmp_path: Path, ledger: Ledger) -> None:
    before = spec_of(trials=3)
    run = finished(tmp_path, before, ledger)
    longer = extended(before, run, ledger, Extension(trials=2), Display())
    write_spec(run, longer)
    assert extended(before, run, ledger, Extension(trials=2), Display()).budget.trials == 5


def test_the_command_line_names_the_limits_that_it_sets() -> None:
    asked = Overrides(settings=("budget.plateau=null", "train.epochs=2", "budget={target: 0.5}"), trials=4)
    assert set(command_line_limits(asked)) == {"target", "trials"}  # a section as a whole replaces what was set before
    assert command_line_limits(Overrides(settings=("budget.plateau=null",))) == ("plateau",)
