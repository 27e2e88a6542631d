"""Early stopping: which trials go on. Pure decisions over recorded values; no clock, no Ray, no study.

A scheduler can be rebuilt at any time from the recorded curves of all trials (`Scheduler.recall`), which is
how a resumed search continues with the rungs it had.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from search.spec import SchedulerConfig


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
        self.rungs: dict[int, dict[int, float]] = {}
        level = grace
        while level < epochs:
            self.rungs[level] = {}
            level *= reduction

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


class NoScheduler:
    """Every trial runs to its end."""

    def recall(self, number: int, curve: Sequence[float]) -> None:
        """Nothing to take in."""

    def decide(self, number: int, curve: Sequence[float]) -> Decision:
        """Always go on."""
        return Decision.CONTINUE


def build_scheduler(config: SchedulerConfig, epochs: int) -> Scheduler:
    """The scheduler that a space file names, for trainings of ``epochs`` epochs."""
    if config.name == "none":
        return NoScheduler()
    return Asha(config.grace, config.reduction, epochs)


def expected_epochs(config: SchedulerConfig, epochs: int, done: int = 0) -> float:
    """Epochs that a trial has before it on average if one in ``reduction`` passes each rung; for estimates of time.

    Args:
        config: the scheduler.
        epochs: full budget.
        done: epochs that it has behind it, rungs at which included.
    """
    rungs = list(Asha(config.grace, config.reduction, epochs).rungs) if config.name == "asha" else []
    expected, chance, reached = 0.0, 1.0, done
    for level in [*(rung for rung in rungs if rung > done), epochs]:
        expected += (level - reached) * chance
        chance /= config.reduction
        reached = level
    return expected
