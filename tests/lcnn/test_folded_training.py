"""Several trainings as one: values, order, ends, and going on after a stop."""

from collections.abc import Generator, Sequence

import pytest

from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult
from lcnn.training.folds import Begin, one_by_one, side_by_side


class Folds:
    """Trainings whose curves are given; keeps what was trained as a checkpoint would, and the order of it."""

    def __init__(self, *curves: Sequence[float | None], ends: dict[int, Outcome] | None = None) -> None:
        self.curves, self.ends = curves, ends or {}
        self.kept: dict[int, list[EpochResult]] = {fold: [] for fold in range(len(curves))}
        self.trained: list[tuple[int, int]] = []

    def begin(self, fold: int, epochs: int) -> Generator[EpochResult, None, Outcome]:
        yield from self.kept[fold][:epochs]
        for epoch in range(len(self.kept[fold]) + 1, min(epochs, len(self.curves[fold])) + 1):
            self.trained.append((fold, epoch))
            value = self.curves[fold][epoch - 1]
            self.kept[fold].append(EpochResult(epoch, fold + 1.0, 1.0, 1.0, 0.1, value, 1e-3 / epoch, 2.0, 10.0))
            yield self.kept[fold][-1]
        return self.ends.get(fold, Outcome.COMPLETED)


def drive(training: Generator[EpochResult, None, Outcome]) -> tuple[list[EpochResult], Outcome]:
    results = []
    while True:
        try:
            results.append(next(training))
        except StopIteration as end:
            return results, end.value


def test_side_by_side_an_epoch_is_the_mean_of_the_folds() -> None:
    folds = Folds((0.2, 0.6), (0.4, 0.8))
    results, outcome = drive(side_by_side(folds.begin, 2, 2, patience=9))
    assert [(r.epoch, r.val_dice) for r in results] == [(1, pytest.approx(0.3)), (2, pytest.approx(0.7))]
    assert folds.trained == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert (results[0].loss, results[0].seconds, results[1].lr) == (1.5, 20.0, 5e-4)
    assert outcome == Outcome.COMPLETED


def test_side_by_side_it_is_the_mean_that_stops_early() -> None:
    folds = Folds((0.5, 0.4, 0.3, 0.2), (0.5, 0.5, 0.5, 0.5))
    results, outcome = drive(side_by_side(folds.begin, 2, 4, patience=2))
    assert (len(results), outcome) == (3, Outcome.COMPLETED)


def test_one_by_one_a_step_is_the_mean_best_of_the_folds_so_far() -> None:
    folds = Folds((0.2, 0.6, 0.5), (0.1, 0.2, 0.4), (0.0, 0.0, 0.0))
    results, outcome = drive(one_by_one(folds.begin, 3, 3))
    assert [(r.epoch, r.val_dice) for r in results] == [
        (1, pytest.approx(0.6)),
        (2, pytest.approx(0.5)),
        (3, pytest.approx(1 / 3)),
    ]
    assert [r.seconds for r in results] == [30.0, 30.0, 30.0]
    assert folds.trained == [(fold, epoch) for fold in range(3) for epoch in (1, 2, 3)]
    assert outcome == Outcome.COMPLETED


@pytest.mark.parametrize("outcome", [Outcome.DIVERGED, Outcome.INFEASIBLE])
def test_a_fold_that_fails_ends_the_whole(outcome: Outcome) -> None:
    ends = {1: outcome}
    results, end = drive(side_by_side(Folds((0.2, 0.3), (), ends=ends).begin, 2, 2, patience=9))
    assert (results, end) == ([], outcome)
    results, end = drive(one_by_one(Folds((0.2, 0.3), (), ends=ends).begin, 2, 2))
    assert ([r.val_dice for r in results], end) == ([0.3], outcome)


@pytest.mark.parametrize("stop_after", [0, 1, 2])
@pytest.mark.parametrize("whole", [side_by_side, one_by_one])
def test_after_a_stop_nothing_is_trained_twice(whole: object, stop_after: int) -> None:
    def start(begin: Begin) -> Generator[EpochResult, None, Outcome]:
        return side_by_side(begin, 2, 3, patience=9) if whole is side_by_side else one_by_one(begin, 2, 3)

    curves = ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
    expected, _ = drive(start(Folds(*curves).begin))
    folds = Folds(*curves)
    stopped = start(folds.begin)
    for _ in range(stop_after):
        next(stopped)
    stopped.close()
    assert drive(start(folds.begin))[0] == expected
    assert len(folds.trained) == len(set(folds.trained)) == 6
