"""When a search ends: what it has used up, held against what it may use. Pure; rebuilt from the study at any time."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from lcnn.outcome import Outcome
from search.spec.settings import BudgetConfig, Spec
from search.spec.space import SearchSpace, point_key
from search.study.ledger import TrialRecord
from search.study.sampling.samplers import values_within_reach


class Limit(StrEnum):
    """What ends a search; the values are what people read."""

    TRIALS = "all trials are run"
    SPACE = "every point of the space is run"
    PLATEAU = "no new best for long enough"
    TARGET = "target reached"
    EPOCHS = "out of epochs"
    HOURS = "out of time"
    GPU_HOURS = "out of GPU time"

    @property
    def stops_running(self) -> bool:
        """Whether trials that run are stopped too; else they come to their own end and only nothing new starts."""
        return self not in (Limit.TRIALS, Limit.SPACE, Limit.PLATEAU)

    @property
    def key(self) -> str | None:
        """The budget's field that sets it; None for the size of the space, which no budget sets."""
        return None if self == Limit.SPACE else self.name.lower()


def planned_trials(spec: Spec, space: SearchSpace) -> int | None:
    """Trials that a search runs if nothing ends it before: those of the budget, or all points where they are fewer.

    None where neither is a limit.
    """
    values, most = values_within_reach(spec.sampler, space), spec.budget.trials
    if values is None or (most is not None and space.size(values) >= most):
        return most
    # A grid need not hold the defaults, which are trial 0 all the same.
    defaults = point_key(space.params(space.defaults))
    return space.size(values) + all(point_key(point) != defaults for point in space.points(values))


NOTHING = (-1.0, 1)
"""Below every value and before every trial."""


@dataclass(frozen=True)
class _Part:
    """What one trial adds to the sums."""

    epochs: int = 0
    gpu_seconds: float = 0.0
    best: float | None = None
    counts: bool = False
    """Whether the budget pays for it: a crash is the machine's fault and costs no trial."""


class Tally:
    """What a search has used so far, kept up trial by trial.

    Args:
        trials: the trials so far.
    """

    def __init__(self, trials: Iterable[TrialRecord]) -> None:
        self._parts: dict[int, _Part] = {}
        self.epochs, self.gpu_seconds, self.counted = 0, 0.0, 0
        self._best = NOTHING
        """Best value, and the negative of the earliest number that has it."""
        self._ended: set[int] = set()
        for trial in trials:
            self.update(trial)

    def update(self, trial: TrialRecord) -> None:
        """Take in a trial as it now stands, in place of what was known of it."""
        before = self._parts.get(trial.number, _Part())
        now = _Part(
            epochs=len(trial.curve),
            gpu_seconds=trial.seconds * trial.gpu_share,
            best=trial.best if trial.outcome is None or trial.is_usable else None,
            counts=trial.outcome != Outcome.CRASHED,
        )
        self._parts[trial.number] = now
        self.epochs += now.epochs - before.epochs
        self.gpu_seconds += now.gpu_seconds - before.gpu_seconds
        self.counted += now.counts - before.counts
        if trial.outcome is not None and now.counts:
            self._ended.add(trial.number)
        if now.best is not None:
            self._best = max(self._best, (now.best, -trial.number))
        elif trial.number == -self._best[1]:
            # The best one so far ended by a fault and no longer counts.
            left = ((part.best, -number) for number, part in self._parts.items() if part.best is not None)
            self._best = max(left, default=NOTHING)

    @property
    def best(self) -> float | None:
        """Best value of a trial that did not end by a fault, or None before the first."""
        return None if self._best is NOTHING else self._best[0]

    @property
    def since_best(self) -> int:
        """Trials that have ended and were started after the best one."""
        return sum(number > -self._best[1] for number in self._ended)


def reached(budget: BudgetConfig, tally: Tally, seconds: float, *, exhausted: bool = False) -> Limit | None:
    """The strictest limit that a search has reached; None where it may go on. See `all_reached`."""
    return next(iter(all_reached(budget, tally, seconds, exhausted=exhausted)), None)


def all_reached(budget: BudgetConfig, tally: Tally, seconds: float, *, exhausted: bool = False) -> list[Limit]:
    """All limits that a search has reached, the strictest first.

    Args:
        budget: the limits.
        tally: what the trials have used.
        seconds: wall-clock time spent searching, over all sessions.
        exhausted: whether nothing is left to propose.
    """
    best = tally.best
    limits = {
        Limit.TARGET: best is not None and budget.target is not None and best >= budget.target,
        Limit.HOURS: budget.hours is not None and seconds >= budget.hours * 3600,
        Limit.GPU_HOURS: budget.gpu_hours is not None and tally.gpu_seconds >= budget.gpu_hours * 3600,
        Limit.EPOCHS: budget.epochs is not None and tally.epochs >= budget.epochs,
        Limit.TRIALS: budget.trials is not None and tally.counted >= budget.trials,
        Limit.PLATEAU: budget.plateau is not None and best is not None and tally.since_best >= budget.plateau,
        Limit.SPACE: exhausted,
    }
    return [limit for limit, is_reached in limits.items() if is_reached]
