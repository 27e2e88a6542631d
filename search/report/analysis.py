"""What the trials of a search say together, and what the test patients do. Pure functions of their records."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import numpy as np
from scipy.stats import kendalltau, spearmanr

from data_prep.common.wording import counted
from lcnn.outcome import Outcome
from search.report.evidence import Patient, Span
from search.spec.settings import SchedulerConfig
from search.study.ledger import TrialRecord
from search.study.scheduling.schedulers import rung_levels

FEWEST_RANKED = 6
"""With fewer completed trials a rank correlation is left to chance."""
TOO_LOW = 0.5
"""Rank correlation of the first rung with the end, below which the grace period is called too short."""


class Effort(StrEnum):
    """What a search is charged in."""

    TRIALS = "trials"
    EPOCHS = "epochs"
    SECONDS = "seconds"


COST: Mapping[Effort, Callable[[TrialRecord], float]] = {
    Effort.TRIALS: lambda trial: 1.0,
    Effort.EPOCHS: lambda trial: float(len(trial.curve)),
    Effort.SECONDS: lambda trial: trial.seconds,
}


@dataclass(frozen=True)
class Step:
    """A finished trial on the way of a search."""

    trial: TrialRecord
    effort: float
    """Spent when it ended, all trials before it and itself included."""
    best: float | None
    """Best value of any trial up to then."""


def best_so_far(trials: Sequence[TrialRecord], spans: Mapping[int, Span], effort: Effort) -> list[Step]:
    """The best value after every finished trial, in the order in which they ended.

    Effort is added up over trials, whether they ran side by side or not; pauses between sessions cost nothing.
    """
    steps: list[Step] = []
    spent, best = 0.0, None
    for trial in sorted(finished(trials), key=lambda trial: (_end(spans, trial.number), trial.number)):
        spent += COST[effort](trial)
        best = max((value for value in (best, trial.best) if value is not None), default=None)
        steps.append(Step(trial, spent, best))
    return steps


def finished(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that have ended, however."""
    return [trial for trial in trials if trial.outcome is not None]


def _end(spans: Mapping[int, Span], number: int) -> float:
    end = spans[number].end if number in spans else None
    return end.timestamp() if end else math.inf


# --- early stopping ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rung:
    """How many trials came to an epoch, and how many went on."""

    epoch: int
    reached: int
    went_on: int
    """Trained for at least one epoch more."""


def survival(trials: Sequence[TrialRecord], epochs: int) -> list[int]:
    """Trials that reached each epoch; first that which all reach, epoch 0."""
    return [sum(len(trial.curve) >= epoch for trial in trials) for epoch in range(epochs + 1)]


def rungs(trials: Sequence[TrialRecord], scheduler: SchedulerConfig, epochs: int) -> list[Rung]:
    """The epochs at which the scheduler looks; none without one."""
    reached = survival(trials, epochs + 1)
    return [Rung(level, reached[level], reached[level + 1]) for level in looks(scheduler, epochs)]


def looks(scheduler: SchedulerConfig, epochs: int) -> list[int]:
    """Epochs to mark as rungs: those of successive halving, or the first look of the median rule."""
    if scheduler.name == "none":
        return []
    if scheduler.name == "median":
        return [scheduler.grace] if scheduler.grace < epochs else []
    return rung_levels(scheduler.grace, scheduler.reduction, epochs)


@dataclass(frozen=True)
class RankAgreement:
    """How well the order of the completed trials after an epoch is that of the end."""

    epoch: int
    spearman: float | None
    """None where all values are equal, so that there is no order."""
    kendall: float | None
    """Tau-b."""
    trials: int


def rank_agreement(trials: Sequence[TrialRecord], epochs: int) -> list[RankAgreement]:
    """Agreement of the best value up to each epoch with the best at the end, over trials that completed.

    Trials that were stopped have no end to compare with. Those that completed are the better ones, which look more
    alike, so that the agreement over all trials would be higher.
    """
    completed = [trial for trial in trials if trial.outcome == Outcome.COMPLETED and trial.curve]
    final = [max(trial.curve) for trial in completed]
    return [
        _agreement(epoch, [max(trial.curve[:epoch]) for trial in completed], final)
        for epoch in range(1, epochs)
        if len(completed) >= 2
    ]


def _agreement(epoch: int, early: Sequence[float], final: Sequence[float]) -> RankAgreement:
    if len(set(early)) < 2 or len(set(final)) < 2:
        return RankAgreement(epoch, None, None, len(final))
    return RankAgreement(
        epoch, float(spearmanr(early, final).statistic), float(kendalltau(early, final).statistic), len(final)
    )


def grace_warning(agreement: Sequence[RankAgreement], first_rung: int | None, step: str = "epoch") -> str | None:
    """What the agreement at the first rung says against the grace period; None where there is nothing to say."""
    at = next((a for a in agreement if a.epoch == first_rung), None)
    if at is None or at.trials < FEWEST_RANKED or (at.spearman is not None and at.spearman >= TOO_LOW):
        return None
    found = "no order at all" if at.spearman is None else f"a rank correlation of {at.spearman:.2f} with the end"
    return (
        f"The grace period looks too short: after {counted(at.epoch, step)}, where the first trials are stopped, there "
        f"is {found}. A longer scheduler.grace stops fewer good trials."
    )


# --- who ran when -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stay:
    """A trial in a slot."""

    trial: TrialRecord
    lane: int
    start: datetime
    end: datetime


def lanes(trials: Sequence[TrialRecord], spans: Mapping[int, Span]) -> list[Stay]:
    """The finished trials, each in the first slot that was free when it began."""
    free_from: list[datetime] = []
    stays: list[Stay] = []
    timed = [(spans[trial.number], trial) for trial in trials if trial.number in spans]
    for span, trial in sorted(timed, key=lambda pair: (pair[0].start, pair[1].number)):
        if span.end is None:
            continue
        lane = next((i for i, free in enumerate(free_from) if free <= span.start), len(free_from))
        free_from[lane : lane + 1] = [span.end]
        stays.append(Stay(trial, lane, span.start, span.end))
    return stays


# --- test patients ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VolumeAgreement:
    """Bias and 95% limits of agreement of predicted against true volume (Bland and Altman 1986)."""

    means: tuple[float, ...]
    """Mean of both volumes, a patient each."""
    differences: tuple[float, ...]
    """Predicted minus true."""
    bias: float
    low: float | None
    """Bias minus 1.96 standard deviations; None with fewer than two patients."""
    high: float | None


def volume_agreement(patients: Sequence[Patient]) -> VolumeAgreement | None:
    """Agreement of the volumes of all patients; None without any."""
    pairs = [
        (patient.figures["predicted_volume"], patient.figures["true_volume"])
        for patient in patients
        if {"predicted_volume", "true_volume"} <= patient.figures.keys()
    ]
    if not pairs:
        return None
    predicted, true = np.array(pairs).T
    difference = predicted - true
    bias = float(difference.mean())
    reach = 1.96 * float(difference.std(ddof=1)) if len(pairs) > 1 else None
    return VolumeAgreement(
        means=tuple(((predicted + true) / 2).tolist()),
        differences=tuple(difference.tolist()),
        bias=bias,
        low=None if reach is None else bias - reach,
        high=None if reach is None else bias + reach,
    )
