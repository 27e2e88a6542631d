"""Trials that are measured on folds: real trainings in one process, stopped and gone on with."""

import csv
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_cohort import TINY, tiny_context

from data_prep.cohort.normalisation import Normalisation
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult
from search.execution.checkpoints import CheckpointKeeper
from search.execution.trial import Fold, TrialContext, start_training
from search.placement.resources import Slots
from search.study.ledger import TrialRecord
from search.winner.final import fold_epochs

GREY = Normalisation(mean=100.0, std=30.0)
FOLDS = (Fold(("a", "b"), ("c",), GREY), Fold(("b", "c"), ("a",), GREY))


@pytest.fixture
def context(tmp_path: Path) -> TrialContext:
    return replace(tiny_context(tmp_path, Slots(1, 1, 0.0, 0, "cpu")), folds=FOLDS)


def figures(training: Generator[EpochResult, None, object]) -> list[tuple[int, float, float | None]]:
    return [(result.epoch, result.loss, result.val_dice) for result in training]


def test_repeats_are_the_mean_of_the_folds_own_trainings(context: TrialContext) -> None:
    together = figures(start_training(context, "0", TINY, 0.0))
    apart = [figures(start_training(context.of_fold(fold), f"alone-{fold}", TINY, 0.0)) for fold in range(2)]
    for epoch, (first, second) in enumerate(zip(*apart, strict=True)):
        assert together[epoch][1] == pytest.approx((first[1] + second[1]) / 2)
        assert together[epoch][2] == pytest.approx(((first[2] or 0) + (second[2] or 0)) / 2)


@pytest.mark.parametrize("storage", [False, True])
def test_fidelity_goes_fold_by_fold_and_tells_the_epochs_of_a_final_training(
    context: TrialContext, tmp_path: Path, storage: bool
) -> None:
    context = replace(context, checkpoints=str(tmp_path / "storage") if storage else None)
    steps = figures(start_training(replace(context, fold_use="fidelity"), "0", TINY, 0.0))
    assert [step for step, *_ in steps] == [1, 2]
    assert fold_epochs(context, 0) in (1, 2)  # of a storage, it brings the histories here
    bests = []
    for fold in range(2):
        with (context.folder / "0" / f"fold-{fold}" / "history.csv").open() as file:
            bests.append(max(float(row["val_dice"]) for row in csv.DictReader(file)))
    assert steps[1][2] == pytest.approx(sum(bests) / 2)


@pytest.mark.parametrize("use", ["repeats", "fidelity"])
@pytest.mark.parametrize("storage", [False, True])
def test_a_stopped_trial_goes_on_as_if_it_had_not_been(
    context: TrialContext, tmp_path: Path, use: str, storage: bool
) -> None:
    mirrored = str(tmp_path / "storage") if storage else None
    context = replace(context, fold_use=use, checkpoints=mirrored)
    whole = figures(start_training(context, "whole", TINY, 0.0))
    stopped = start_training(context, "stopped", TINY, 0.0)
    next(stopped)
    stopped.close()
    assert figures(start_training(context, "stopped", TINY, 0.0)) == whole


def test_the_checkpoints_of_a_beaten_trial_go_with_its_folds(context: TrialContext) -> None:
    config: TrainConfig = TINY
    figures(start_training(context, "1", config, 0.0))
    trained = context.folder / "1"
    assert len(list(trained.glob("fold-*/*.pt"))) == 4
    keeper = CheckpointKeeper(context, 1, [])
    keeper.ended(TrialRecord(1, {}, (0.1,), Outcome.COMPLETED, 1.0))
    assert sorted(file.name for file in trained.glob("fold-*/*.pt")) == ["best.pt", "best.pt"]
    keeper.ended(TrialRecord(2, {}, (0.2,), Outcome.COMPLETED, 1.0))
    assert sorted(file.name for file in trained.glob("fold-*/*")) == ["history.csv", "history.csv"]
