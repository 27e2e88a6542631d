"""Two objectives: validation Dice against what a training costs, and the trials that no other beats in both.

A study keeps one value, Dice, for it is what schedulers, budgets and confirmation go by, epoch after epoch; what a
trial costs stands beside it. The sampler is shown both (see `search.study.sampling.samplers`), and who is on the front
of both is not stopped early (`FrontGuard`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.spec.settings import ObjectiveConfig
from search.study.ledger import TrialRecord
from search.study.objectives.front import undominated
from search.study.scheduling.schedulers import Decision, Scheduler

ALIKE = 0.1
"""Costs that differ by less than this part are taken for the same when a trial is to be stopped: of two trials with
the same settings one is always a little faster, and would else never be stopped."""


@dataclass(frozen=True)
class Cost:
    """Something that a training takes, less of which is better."""

    name: str
    """In a space file."""
    label: str
    unit: str
    of: Callable[[TrialRecord], float | None]
    """In ``unit``; None where it is not known."""


def _seconds(trial: TrialRecord) -> float | None:
    return trial.seconds / len(trial.curve) if trial.curve else None


def _memory(trial: TrialRecord) -> float | None:
    return None if trial.memory_bytes is None else trial.memory_bytes / 1e9


COSTS: Mapping[str, Cost] = {
    cost.name: cost
    for cost in (
        Cost("seconds", "training time an epoch", "s", _seconds),
        Cost("memory", "peak memory of a training", "GB", _memory),
    )
}
"""By name."""


def cost_of(objective: ObjectiveConfig) -> Cost | None:
    """The second objective of a space file; None where Dice alone counts."""
    return None if objective.cost == "none" else COSTS[objective.cost]


def front(trials: Iterable[TrialRecord], cost: Cost) -> list[TrialRecord]:
    """The usable trials to which no other is at least equal in Dice and cost and better in one; the best Dice first."""
    return undominated(
        (trial.best, price, trial)
        for trial in trials
        if trial.is_usable and trial.best is not None and (price := cost.of(trial)) is not None
    )


def front_summary(trials: Iterable[TrialRecord], cost: Cost) -> dict[str, Any]:
    """The front of the trials for evaluation.json, the best Dice first."""
    points = [{"trial": trial.number, "dice": trial.best, "cost": cost.of(trial)} for trial in front(trials, cost)]
    return {"cost": cost.label, "unit": cost.unit, "trials": points}


class FrontGuard:
    """A scheduler that goes by Dice, except that it stops nobody who is on the front of Dice and cost.

    A trial is on the front while no other that has come as far has as high a Dice and costs as little. Everything
    that decides is read from the study, so there is nothing to be rebuilt after a stop.

    Args:
        rule: the scheduler that goes by Dice.
        trials: the trials as the study has them now.
        cost: the second objective.
    """

    def __init__(self, rule: Scheduler, trials: Callable[[], Sequence[TrialRecord]], cost: Cost) -> None:
        self._rule, self._trials, self._cost = rule, trials, cost

    def recall(self, number: int, curve: Sequence[float]) -> None:
        """See `Scheduler.recall`."""
        self._rule.recall(number, curve)

    def decide(self, number: int, curve: Sequence[float]) -> Decision:
        """See `Scheduler.decide`."""
        decision = self._rule.decide(number, curve)
        if decision == Decision.STOP and self._is_on_front(number, curve):
            return Decision.CONTINUE
        return decision

    def _is_on_front(self, number: int, curve: Sequence[float]) -> bool:
        trials = {trial.number: trial for trial in self._trials()}
        own = self._cost.of(trials[number])
        if own is None:
            return False
        return not any(
            max(rival.curve[: len(curve)]) >= max(curve) and price <= own * (1 + ALIKE)
            for rival in trials.values()
            if rival.number != number
            and (rival.outcome is None or rival.is_usable)
            and len(rival.curve) >= len(curve)
            and (price := self._cost.of(rival)) is not None
        )
