"""Confirmation: who is trained again, with which seeds, and who wins by it."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lcnn.outcome import Outcome
from search.errors import RunFailed
from search.execution.trainings import Trained
from search.run.folder import RunFolder
from search.spec.settings import ConfirmConfig
from search.spec.space import SearchSpace
from search.study.ledger import Ledger, TrialRecord
from search.winner.confirm import (
    Candidate,
    Confirmation,
    Confirmed,
    candidates,
    confirmation_lines,
    confirmation_summary,
    confirmed,
    write_confirmation,
)

Open = Callable[..., Ledger]
VALUES = (0.2, 0.5, 0.7, 0.6, 0.4)
"""Search value by trial."""


@pytest.fixture
def ledger(open_ledger: Open) -> Ledger:
    ledger = open_ledger()
    for value in VALUES:
        number = ledger.ask()
        ledger.draw_params(number)
        ledger.record_epoch(number, 1, value, 1.0)
        ledger.finish(number, Outcome.COMPLETED)
    return ledger


def numbers(found: list[Candidate]) -> list[int]:
    return [candidate.trial.number for candidate in found]


def trained(*curve: float, outcome: Outcome = Outcome.COMPLETED) -> Trained:
    return Trained(outcome, curve)


def result(number: int, search: float, **by_seed: Trained) -> Confirmed:
    record = TrialRecord(number, {}, (search,), Outcome.COMPLETED, 1.0)
    return Confirmed(record, tuple(Confirmation(int(seed[1:]), None, each) for seed, each in by_seed.items()))


@pytest.mark.parametrize(("top", "chosen"), [(1, [2, 0]), (2, [2, 3, 0]), (5, [2, 3, 1, 4, 0]), (9, [2, 3, 1, 4, 0])])
def test_the_best_and_the_defaults_are_confirmed(
    ledger: Ledger, space: SearchSpace, top: int, chosen: list[int]
) -> None:
    assert numbers(candidates(ConfirmConfig(top=top, seeds=1), ledger.ranking(), space)) == chosen


def test_each_is_trained_with_seeds_that_the_search_has_not_used(ledger: Ledger, space: SearchSpace) -> None:
    for candidate in candidates(ConfirmConfig(top=2, seeds=3), ledger.ranking(), space):
        searched = space.config(candidate.trial.params)
        assert [training.config.train.seed for training in candidate.trainings] == [1, 2, 3]
        for training in candidate.trainings:
            seed = training.config.train.seed
            assert training.key == f"{candidate.trial.number}-{seed}"
            assert training.epochs == searched.train.epochs
            unseeded = searched.train.model_copy(update={"seed": seed})
            assert training.config == searched.model_copy(update={"train": unseeded})


def test_the_confirmed_value_decides_not_the_searched_one(ledger: Ledger, space: SearchSpace) -> None:
    found = candidates(ConfirmConfig(top=2, seeds=2), ledger.ranking(), space)
    curves = {
        "2-1": trained(0.3, 0.4),
        "2-2": trained(0.6, 0.1),
        "3-1": trained(0.1, 0.55),
        "3-2": trained(0.55, 0.2),
        "0-1": trained(0.9, outcome=Outcome.DIVERGED),
        "0-2": trained(0.9),
    }
    first, second, last = confirmed(found, curves)
    assert (first.trial.number, first.mean) == (3, pytest.approx(0.55))
    assert first.regression == pytest.approx(0.6 - 0.55)
    assert (second.trial.number, second.mean) == (2, pytest.approx(0.5))
    assert second.sd == pytest.approx(0.2 / 2**0.5)
    assert (last.trial.number, last.mean) == (0, None)  # settings that diverge with one seed are no winner


def test_the_final_training_has_the_median_of_the_best_epochs() -> None:
    assert result(1, 0.5, s1=trained(0.1, 0.2, 0.5), s2=trained(0.5, 0.2), s3=trained(0.1, 0.5, 0.2)).epochs == 2


def test_with_folds_a_seed_is_a_training_on_each(ledger: Ledger, space: SearchSpace) -> None:
    (best, _) = candidates(ConfirmConfig(top=1, seeds=2), ledger.ranking(), space, folds=2)
    assert [(t.key, t.config.train.seed, t.fold) for t in best.trainings] == [
        ("2-1-fold-0", 1, 0),
        ("2-1-fold-1", 1, 1),
        ("2-2-fold-0", 2, 0),
        ("2-2-fold-1", 2, 1),
    ]
    curves = dict(zip((t.key for t in best.trainings), map(trained, (0.2, 0.4, 0.6, 0.8)), strict=True))
    (found,) = confirmed([best], curves)
    assert found.values == pytest.approx((0.3, 0.7))  # noqa: PD011 (no table)
    assert found.mean == pytest.approx(0.5)
    assert confirmation_summary([found])["seeds"] == 2
    curves["2-2-fold-1"] = trained(outcome=Outcome.DIVERGED)
    with pytest.raises(RunFailed):
        confirmed([best], curves)


def test_equal_values_go_to_the_earlier_trial(ledger: Ledger, space: SearchSpace) -> None:
    found = candidates(ConfirmConfig(top=3, seeds=1), ledger.ranking(), space)
    curves = {f"{number}-1": trained(0.5) for number in numbers(found)}
    assert [each.trial.number for each in confirmed(found, curves)] == [0, 1, 2, 3]


def test_nothing_that_trains_again_is_a_failed_run(ledger: Ledger, space: SearchSpace) -> None:
    found = candidates(ConfirmConfig(top=1, seeds=1), ledger.ranking(), space)
    curves = {f"{number}-1": trained(outcome=Outcome.DIVERGED) for number in numbers(found)}
    with pytest.raises(RunFailed, match="not one of the best trials trained again"):
        confirmed(found, curves)


def test_the_table_has_a_row_a_training(tmp_path: Path) -> None:
    results = [
        result(3, 0.6, s1=trained(0.1, 0.55), s2=trained(0.45)),
        result(0, 0.2, s1=trained(outcome=Outcome.DIVERGED), s2=trained(0.1)),
    ]
    run = RunFolder(tmp_path)
    write_confirmation(run, results)
    table = pd.read_csv(run.confirmation)
    assert table[["trial", "seed"]].to_numpy().tolist() == [[3, 1], [3, 2], [0, 1], [0, 2]]
    assert table.best_val_dice.fillna(-1).tolist() == [0.55, 0.45, -1, 0.1]
    assert table.outcome.tolist() == ["completed", "completed", "diverged", "completed"]
    summary = confirmation_summary(results)
    assert summary["seeds"] == 2
    assert summary["trials"][0]["regression"] == pytest.approx(0.1)
    assert summary["trials"][1]["confirmed_val_dice"] is None
    text = "\n".join(confirmation_lines(results))
    assert "trial   3  searched 0.600  confirmed 0.500 (sd 0.071)" in text
    assert "did not train reliably" in text
    assert "searched minus confirmed: +0.100" in text
