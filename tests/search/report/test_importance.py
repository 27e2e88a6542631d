"""Importance: told from enough trials only, and held against chance."""

import numpy as np
import pytest
from evidence_cases import PARAMETERS, mixed_trials, trial

from search.report import importance
from search.report.importance import CHANCE, FEWEST_TRIALS, parameter_importance


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(importance, "RESAMPLES", 3)


def test_the_setting_that_decides_comes_first_and_the_others_are_chance():
    trials = []
    for n in range(40):
        params = trial(n).params
        trials.append(trial(n, curve=(float(np.log10(params["optim.lr"])),)))
    found = {i.name: i for i in parameter_importance(trials, PARAMETERS)}
    assert next(iter(found)) == "optim.lr"
    assert found["optim.lr"].low > found[CHANCE].high
    assert found["fusion.local"].median < 0.1
    # A setting that only some trials have cannot be compared over all.
    assert "schedule.polynomial.power" not in found


@pytest.mark.parametrize(
    ("trials", "parameters"),
    [
        ([], PARAMETERS),
        (mixed_trials(FEWEST_TRIALS - 1), PARAMETERS),
        ([trial(n) for n in range(30)], PARAMETERS[:1]),
        ([trial(n, curve=(0.0,)) for n in range(30)], PARAMETERS),
    ],
    ids=["none", "few", "one parameter", "equal values"],
)
def test_where_nothing_can_be_told_nothing_is(trials, parameters):
    assert parameter_importance(trials, parameters) == []
