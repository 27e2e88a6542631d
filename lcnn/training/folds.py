"""One training a fold, seen from outside as one training: folds as repeats, or as fidelity.

As repeats, all folds train side by side, one epoch at a time, and an epoch's value is their mean: a value that leans
on more patients, at the price of as many trainings. As fidelity, one fold trains after the other to its end, and a
step's value is the mean of the folds so far: bad settings are given up after the first folds.
"""

from collections.abc import Callable, Generator, Sequence
from statistics import fmean

from lcnn.metrics import mean_defined
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult, is_finished

Training = Generator[EpochResult, None, Outcome]
Begin = Callable[[int, int], Training]
"""Begins the training of a fold (from 0) that is to have so many epochs in all. Begun again, with more epochs or after
an interruption, it yields what is done from its record and trains on."""


def side_by_side(begin: Begin, folds: int, epochs: int, patience: int) -> Training:
    """Folds as repeats: an epoch of every fold makes an epoch.

    Only one network is in memory at a time: each fold's training is opened, trained for an epoch, and closed.

    Args:
        begin: begins a fold's training; it must not stop early by itself.
        folds: their number.
        epochs: full budget.
        patience: the whole stops after so many epochs without a better mean.
    """
    history: list[EpochResult] = []
    while not is_finished(history, epochs, patience):
        results = []
        for fold in range(folds):
            curve, outcome = _run(begin(fold, len(history) + 1))
            if outcome != Outcome.COMPLETED:
                return outcome
            results.append(curve[-1])
        history.append(_mean(len(history) + 1, results))
        yield history[-1]
    return Outcome.COMPLETED


def one_by_one(begin: Begin, folds: int, epochs: int) -> Training:
    """Folds as fidelity: the whole training of a fold is a step, whose value is the mean best Dice so far.

    Args:
        begin: begins a fold's training.
        folds: steps at most.
        epochs: of each fold's training.
    """
    bests: list[float] = []
    for fold in range(folds):
        curve, outcome = _run(begin(fold, epochs))
        if outcome != Outcome.COMPLETED:
            return outcome
        bests.append(max(result.val_dice or 0.0 for result in curve))
        yield _mean(fold + 1, curve[-1:], value=fmean(bests), seconds=sum(result.seconds for result in curve))
    return Outcome.COMPLETED


def _run(training: Training) -> tuple[list[EpochResult], Outcome]:
    curve = []
    while True:
        try:
            curve.append(next(training))
        except StopIteration as end:
            return curve, end.value


def _mean(
    step: int, results: Sequence[EpochResult], *, value: float | None = None, seconds: float | None = None
) -> EpochResult:
    """The figures of several trainings as those of one; the time is their sum."""
    values = [result.val_dice for result in results if result.val_dice is not None]
    return EpochResult(
        epoch=step,
        loss=fmean(result.loss for result in results),
        dice_loss=fmean(result.dice_loss for result in results),
        cross_entropy=fmean(result.cross_entropy for result in results),
        alignment_loss=fmean(result.alignment_loss for result in results),
        val_dice=value if value is not None else mean_defined(values) if values else None,
        lr=results[-1].lr,
        angle_deg=fmean(result.angle_deg for result in results),
        seconds=seconds if seconds is not None else sum(result.seconds for result in results),
    )
