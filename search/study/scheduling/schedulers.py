"""Early stopping: which trials go on. Pure decisions over recorded values; no clock, no Ray, no study.

A scheduler can be rebuilt at any time from the recorded curves of all trials (`Scheduler.recall`), which is
how a resumed search continues with the rungs it had.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from statistics import median
from typing import Protocol

from search.spec.settings import SchedulerConfig

LEAST_OTHERS = 4
"""The median rule stops nobody before so many other trials have reached the epoch."""


class Decision(StrEnum):
    """What becomes of a trial after an epoch."""

    CONTINUE = "continue"
    STOP = "stop"


class Scheduler(Protocol):
    """Decides after every recorded epoch."""

    def recall(self, number: int, curve: Sequence[float]) -> None:
        """Take in a trial's recorded curve without deciding anything; for resumption."""

    def decide(self, number: int, curve: Sequence[float]) -> Decision:
        """Take in a trial's curve up to its newest epoch, and decide.

        Args:
            number: the trial.
            curve: its value after every epoch so far, first epoch first; larger is better.
        """


class Asha:
    """Asynchronous successive halving, stopping variant (Li et al. 2020, A System for Massively Parallel
    Hyperparameter Tuning).

    At the rungs grace, grace * reduction, grace * reduction**2, ... a trial goes on if its best value so far is
    among the best 1 / reduction of all that have reached the rung, at least one. The first at a rung therefore
    always passes.

    Args:
        grace: epochs before the first rung.
        reduction: one in this many goes on.
        epochs: full budget; there is no rung at it, as nothing is left to save.
    """

    def __init__(self, grace: int, reduction: int, epochs: int) -> None:
        self.reduction = reduction
        self.rungs: dict[int, dict[int, float]] = {level: {} for level in rung_levels(grace, reduction, epochs)}

    def recall(self, number: int, curve: Sequence[float]) -> None:
        """See `Scheduler.recall`."""
        for level, rung in self.rungs.items():
            if len(curve) >= level:
                rung[number] = max(curve[:level])

    def decide(self, number: int, curve: Sequence[float]) -> Decision:
        """See `Scheduler.decide`."""
        self.recall(number, curve)
        rung = self.rungs.get(len(curve))
        if rung is None:
            return Decision.CONTINUE
        better = sum(value > rung[number] for value in rung.values())
        return Decision.CONTINUE if better < max(1, len(rung) // self.reduction) else Decision.STOP


class Hyperband:
    """Several brackets of successive halving with different first rungs (Li et al. 2018, Hyperband: A Novel
    Bandit-Based Approach to Hyperparameter Optimization), each asynchronous.

    Where early values mislead, a single first rung stops the wrong trials; here the first bracket begins at
    ``grace``, the next at ``grace * reduction``, and so on, and the last stops nobody. Trials compete within their
    bracket only, and which that is follows from their number, in the proportions of the paper.

    Args:
        grace: epochs before the first rung of the first bracket.
        reduction: one in this many goes on from each rung.
        epochs: full budget.
    """

    def __init__(self, grace: int, reduction: int, epochs: int) -> None:
        shares = bracket_shares(grace, reduction, epochs)
        self.brackets = [Asha(first, reduction, epochs) for first in shares]
        self._deal = deal(list(shares.values()))

    def bracket(self, number: int) -> Asha:
        """The bracket in which a trial competes."""
        return self.brackets[self._deal[number % len(self._deal)]]

    def recall(self, number: int, curve: Sequence[float]) -> None:
        """See `Scheduler.recall`."""
        self.bracket(number).recall(number, curve)

    def decide(self, number: int, curve: Sequence[float]) -> Decision:
        """See `Scheduler.decide`."""
        return self.bracket(number).decide(number, curve)


class MedianRule:
    """Median stopping (Golovin et al. 2017, Google Vizier: A Service for Black-Box Optimization).

    From ``grace`` epochs on, a trial is stopped when its best value so far is below the median of the running
    averages, up to the same epoch, of all other trials that have reached it. Curves rise, so that a running average
    lags behind the newest value: a trial must be clearly bad to be stopped.

    Args:
        grace: epochs that every trial gets.
    """

    def __init__(self, grace: int) -> None:
        self.grace = grace
        self.averages: dict[int, tuple[float, ...]] = {}

    def recall(self, number: int, curve: Sequence[float]) -> None:
        """See `Scheduler.recall`."""
        if curve:
            self.averages[number] = tuple(total / epoch for epoch, total in enumerate(accumulate(curve), start=1))

    def decide(self, number: int, curve: Sequence[float]) -> Decision:
        """See `Scheduler.decide`."""
        self.recall(number, curve)
        epoch = len(curve)
        others = [a[epoch - 1] for other, a in self.averages.items() if other != number and len(a) >= epoch]
        if epoch < self.grace or len(others) < LEAST_OTHERS:
            return Decision.CONTINUE
        return Decision.STOP if max(curve) < median(others) else Decision.CONTINUE


class NoScheduler:
    """Every trial runs to its end."""

    def recall(self, number: int, curve: Sequence[float]) -> None:
        """Nothing to take in."""

    def decide(self, number: int, curve: Sequence[float]) -> Decision:
        """Always go on."""
        return Decision.CONTINUE


def rung_levels(grace: int, reduction: int, epochs: int) -> list[int]:
    """Epochs at which successive halving looks: powers of ``reduction`` times ``grace``, below the full budget."""
    levels = []
    level = grace
    while level < epochs:
        levels.append(level)
        level *= reduction
    return levels


def bracket_shares(grace: int, reduction: int, epochs: int) -> dict[int, int]:
    """First rung of every bracket, the full budget for the one that stops nobody, and its share of the trials.

    A bracket with s rungs gets ceil(brackets / (s + 1) * reduction ** s) trials, as in the paper: then all
    brackets train for about as many epochs.
    """
    firsts = [*rung_levels(grace, reduction, epochs), epochs]
    most = len(firsts)
    shares = {}
    for rungs, first in zip(range(most - 1, -1, -1), firsts, strict=True):
        shares[first] = -(-most * reduction**rungs // (rungs + 1))  # rounded up
    return shares


def deal(shares: Sequence[int]) -> tuple[int, ...]:
    """An order of positions in which each appears as often as its share says, spread evenly."""
    owed = [0] * len(shares)
    order = []
    for _ in range(sum(shares)):
        owed = [debt + share for debt, share in zip(owed, shares, strict=True)]
        chosen = owed.index(max(owed))
        owed[chosen] -= sum(shares)
        order.append(chosen)
    return tuple(order)


SCHEDULERS: Mapping[str, Callable[[SchedulerConfig, int], Scheduler]] = {
    "asha": lambda config, epochs: Asha(config.grace, config.reduction, epochs),
    "hyperband": lambda config, epochs: Hyperband(config.grace, config.reduction, epochs),
    "median": lambda config, epochs: MedianRule(config.grace),
    "none": lambda config, epochs: NoScheduler(),
}


def build_scheduler(config: SchedulerConfig, epochs: int) -> Scheduler:
    """The scheduler that a space file names, for trainings of ``epochs`` epochs."""
    return SCHEDULERS[config.name](config, epochs)


def expected_epochs(config: SchedulerConfig, epochs: int, done: int = 0) -> float:
    """Epochs that a trial has before it on average; for estimates of time.

    Of those at a rung one in ``reduction`` is taken to go on. The median rule has no rate of its own: it is taken to
    stop a third of the trials at ``grace``, about what it came to with rising curves of random height and pace.

    Args:
        config: the scheduler.
        epochs: full budget.
        done: epochs that it has behind it, rungs at which included.
    """
    return EXPECTED[config.name](config, epochs, done)


def _halving(rungs: Sequence[int], reduction: float, epochs: int, done: int) -> float:
    expected, chance, reached = 0.0, 1.0, done
    for level in [*(rung for rung in rungs if rung > done), epochs]:
        expected += (level - reached) * chance
        chance /= reduction
        reached = level
    return expected


def _expected_in_asha(config: SchedulerConfig, epochs: int, done: int) -> float:
    rungs = rung_levels(config.grace, config.reduction, epochs)
    return _halving(rungs, config.reduction, epochs, done)


def _expected_in_hyperband(config: SchedulerConfig, epochs: int, done: int) -> float:
    """The mean over the brackets, each weighted with its trials that are still there after ``done`` epochs."""
    total, weights = 0.0, 0.0
    for first, share in bracket_shares(config.grace, config.reduction, epochs).items():
        rungs = rung_levels(first, config.reduction, epochs)
        weight = share / config.reduction ** sum(rung <= done for rung in rungs)
        total += weight * _halving(rungs, config.reduction, epochs, done)
        weights += weight
    return total / weights


EXPECTED: Mapping[str, Callable[[SchedulerConfig, int, int], float]] = {
    "asha": _expected_in_asha,
    "hyperband": _expected_in_hyperband,
    "median": lambda config, epochs, done: _halving([min(config.grace, epochs)], 3 / 2, epochs, done),
    "none": lambda config, epochs, done: _halving([], 1, epochs, done),
}
