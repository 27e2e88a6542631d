"""The study: the single truth of a search.

Every trial's parameters, every epoch's value, its outcome and where its files lie are here before the next
decision is taken. Nothing else holds anything that could not be rebuilt from it, and tools that read Optuna
studies (optuna-dashboard) work on any run.
"""

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine

from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.placement.memory import with_accumulation
from search.spec.settings import SamplerConfig
from search.spec.space import Params, SearchSpace, point_key
from search.study.sampling.samplers import TakenPoints, build_sampler, is_exhausted
from search.study.sampling.tpe import Observations
from search.study.storage import StudyStorage

log = logging.getLogger(__name__)

DEFAULTS = 0
"""Number of the trial that runs the file's own settings."""
CONSTRAINT = "can be trained"
"""Violated by trials that diverge or do not fit into memory."""
OUTCOME = "outcome"
REASON = "reason"
SECONDS = "seconds"
GPU_SHARE = "gpu_share"
ACCUMULATION = "accumulation"
MEMORY = "memory_bytes"
FOLDER = "folder"
SEARCH_SECONDS = "search_seconds"
SLOT_SECONDS = "slot_seconds"
ENQUEUED = "fixed_params"
"""Optuna's name for the parameters of a trial that waits in its queue."""
ENDS = {
    TrialState.COMPLETE: Outcome.COMPLETED,
    TrialState.PRUNED: Outcome.PRUNED,
    TrialState.FAIL: Outcome.CRASHED,
}
"""How a trial ended that another program than this one has ended."""


@dataclass(frozen=True)
class TrialRecord:
    """What the study knows of one trial."""

    number: int
    params: Params
    curve: tuple[float, ...]
    """Validation Dice after every epoch."""
    outcome: Outcome | None
    """None while it is unfinished."""
    seconds: float
    """Training time so far."""
    gpu_share: float = 0.0
    """Share of a GPU that it has; 0 on a CPU."""
    reason: str | None = None
    """Why it ended, where the outcome does not say it all."""
    accumulation: int | None = None
    """Micro-batches of a step, so that it fits its pool; None before it was placed."""
    memory_bytes: float | None = None
    """Peak memory of its training; None where it was not measured."""

    @property
    def best(self) -> float | None:
        """Best validation Dice so far, or None before the first epoch."""
        return max(self.curve) if self.curve else None

    @property
    def is_usable(self) -> bool:
        """Whether a model can be trained from it: it ran, and what ended it was not a fault."""
        return self.outcome in (Outcome.COMPLETED, Outcome.PRUNED) and bool(self.curve)

    @property
    def best_epoch(self) -> int | None:
        """First epoch that reached the best value, from 1."""
        return self.curve.index(max(self.curve)) + 1 if self.curve else None


def settings_of(trial: TrialRecord, space: SearchSpace) -> TrainConfig:
    """The settings of a trial as it ran, in the micro-batches that fitted its pool."""
    config = space.config(trial.params)
    return config if trial.accumulation is None else with_accumulation(config, trial.accumulation)


class Ledger:
    """Reads and writes one study.

    Args:
        url: database of the study, for example ``sqlite:///results/lcnn/study.db``.
        name: name of the study in it.
        space: turns trials into parameters.
        sampler: who proposes.
        cost: what the sampler measures against a trial's value, less being better; None: nothing.
    """

    def __init__(
        self,
        url: str,
        name: str,
        space: SearchSpace,
        sampler: SamplerConfig,
        cost: Callable[[TrialRecord], float | None] | None = None,
    ) -> None:
        self._space, self._sampler = space, sampler
        self._live: dict[int, optuna.Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = StudyStorage(url)
        weakref.finalize(self, self._storage.engine.dispose)  # closes the connection to a server
        self._records: list[TrialRecord] = []
        self._waiting: set[int] = set()
        self._crashed: set[int] = set()
        self._observations = Observations()
        self._taken = TakenPoints()
        self._cost = (lambda trial: cost(_record(trial))) if cost else None
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            sampler=build_sampler(sampler, space, self._taken, self._cost),
        )

    @property
    def engine(self) -> Engine:
        """The database's engine, for counting its statements and for filling studies in bulk."""
        return self._storage.engine

    # --- reading ----------------------------------------------------------------------------------------

    def trials(self) -> list[TrialRecord]:
        """All trials in order of their numbers."""
        self._update()
        if not self._waiting:
            return list(self._records)
        return [record for record in self._records if record.number not in self._waiting]

    def trial(self, number: int) -> TrialRecord:
        """One trial.

        Raises:
            KeyError: there is none of that number.
        """
        self._update()
        if not 0 <= number < len(self._records):
            raise KeyError(number)
        return self._records[number]

    def __len__(self) -> int:
        self._update()
        return len(self._records) - len(self._waiting)

    def counted(self) -> int:
        """Trials that the budget has paid for; a crash is the machine's fault and costs none."""
        return len(self) - len(self._crashed)

    def ranking(self) -> list[TrialRecord]:
        """Trials that ended well, the best first; all that completed come before those that were pruned."""
        usable = [trial for trial in self.trials() if trial.is_usable]
        return sorted(usable, key=lambda t: (t.outcome != Outcome.COMPLETED, -(t.best or 0.0), t.number))

    def is_exhausted(self) -> bool:
        """Whether nothing is left to propose: every point that the sampler can reach runs or has run."""
        self._update()
        return not self._waiting and is_exhausted(self._sampler, self._space, self._taken)

    @property
    def search_seconds(self) -> float:
        """Wall-clock seconds spent searching, over all sessions."""
        return float(self.study.user_attrs.get(SEARCH_SECONDS, 0.0))

    @property
    def slot_seconds(self) -> float:
        """Seconds spent searching, summed over the trial slots there were."""
        return float(self.study.user_attrs.get(SLOT_SECONDS, 0.0))

    @property
    def busy_share(self) -> float | None:
        """Share of the slots' time that trials trained; None before any time was kept."""
        slot_seconds = self.slot_seconds
        return sum(trial.seconds for trial in self.trials()) / slot_seconds if slot_seconds else None

    def _update(self) -> None:
        """Make the records of the trials that changed anew; the others stay as they are."""
        self._storage.refresh()
        for number in sorted(self._storage.take_changed()):
            trial = self._storage.trial(number)
            record = _record(trial)
            self._records[number : number + 1] = [record]
            _mark(self._waiting, number, trial.state == TrialState.WAITING)
            _mark(self._crashed, number, record.outcome == Outcome.CRASHED)
            self._taken.update(trial)
            if trial.state.is_finished():
                self._observations.add(trial)

    def _shown(self) -> list[FrozenTrial] | None:
        """The trials that the sampler sees; None: all."""
        if self._sampler.name != "tpe" or self._cost is not None:
            return None
        running = [trial for trial in self._storage.unfinished() if trial.state == TrialState.RUNNING]
        return self._observations.shown(running)

    # --- writing ----------------------------------------------------------------------------------------

    def ask(self) -> int:
        """Number of a new trial. The first is the defaults, then points to start from; the others are the sampler's."""
        self._enqueue_defaults()
        with self._storage.transaction():
            trial = self.study.ask()
            trial.set_user_attr(FOLDER, f"trials/{trial.number}")
        self._live[trial.number] = trial
        return trial.number

    def warm_start(self, points: Sequence[Params]) -> int:
        """Make these points of the space the next trials, behind trial 0; how many of them were new.

        A point that the study already holds, run or yet to run, is left out: said again by a resumed search, the
        same points change nothing.

        Raises:
            ValueError: one of them is no point of the space.
        """
        self._enqueue_defaults()
        trials = self.study.get_trials(deepcopy=False)
        known = {point_key(trial.system_attrs.get(ENQUEUED, trial.params)) for trial in trials}
        new = 0
        for point in points:
            if fault := self._space.fault(point):
                raise ValueError(f"no point of the space: {fault}")
            if point_key(point) not in known:
                known.add(point_key(point))
                self.study.enqueue_trial(dict(point))
                new += 1
        return new

    def _enqueue_defaults(self) -> None:
        self._update()
        if not self._records:
            self.study.enqueue_trial(dict(self._space.params(self._space.defaults)))

    def draw_params(self, number: int) -> Params:
        """Parameters of an unfinished trial; those that it does not have yet are drawn now."""
        trial = self._trial(number)
        self._update()
        with self._storage.transaction(), self._storage.showing(self._shown()):
            return self._space.suggest(trial)

    def record_epoch(self, number: int, epoch: int, value: float, seconds: float) -> None:
        """Keep an epoch's value and the trial's training time so far."""
        trial = self._trial(number)
        with self._storage.transaction():
            trial.report(value, epoch)
            trial.set_user_attr(SECONDS, seconds)

    def record_placement(
        self, number: int, *, accumulation: int, gpu_share: float, memory_bytes: float | None = None
    ) -> None:
        """Keep in how many micro-batches a step of the trial is taken, its share of a GPU and its peak memory."""
        trial = self._trial(number)
        with self._storage.transaction():
            trial.set_user_attr(ACCUMULATION, accumulation)
            trial.set_user_attr(GPU_SHARE, gpu_share)
            if memory_bytes is not None:
                trial.set_user_attr(MEMORY, memory_bytes)

    def finish(self, number: int, outcome: Outcome, reason: str | None = None) -> None:
        """Keep how a trial ended.

        Diverged and infeasible trials are pruned ones that violate a constraint: every sampler that looks at
        constraints takes them for worse than anything that ran. Crashed ones fail, and are never a score.
        """
        trial = self._trial(number)
        with self._storage.transaction():
            trial.set_user_attr(OUTCOME, outcome.value)
            if reason:
                trial.set_user_attr(REASON, reason)
            if outcome in (Outcome.DIVERGED, Outcome.INFEASIBLE) and CONSTRAINT not in trial.constraints:
                trial.set_constraint(CONSTRAINT, 1.0)
            if outcome == Outcome.COMPLETED:
                self.study.tell(number, max(self.trial(number).curve))
            elif outcome == Outcome.CRASHED:
                self.study.tell(number, state=TrialState.FAIL)
            else:
                self.study.tell(number, state=TrialState.PRUNED)
        del self._live[number]

    def set_search_seconds(self, seconds: float, slot_seconds: float) -> None:
        """Keep the wall-clock time spent searching, and that time summed over the trial slots; over all sessions."""
        with self._storage.transaction():
            self.study.set_user_attr(SEARCH_SECONDS, seconds)
            self.study.set_user_attr(SLOT_SECONDS, slot_seconds)

    def _trial(self, number: int) -> optuna.Trial:
        """The open trial; also one that an earlier process opened."""
        if number not in self._live:
            frozen = self.study.get_trials(deepcopy=False)[number]
            self._live[number] = optuna.Trial(self.study, frozen._trial_id)
        return self._live[number]


def _mark(numbers: set[int], number: int, belongs: bool) -> None:
    if belongs:
        numbers.add(number)
    else:
        numbers.discard(number)


def _record(trial: FrozenTrial) -> TrialRecord:
    recorded = trial.user_attrs.get(OUTCOME)
    return TrialRecord(
        number=trial.number,
        params=dict(trial.params),
        curve=tuple(trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)),
        outcome=None if trial.state not in ENDS else Outcome(recorded) if recorded else ENDS[trial.state],
        seconds=float(trial.user_attrs.get(SECONDS, 0.0)),
        gpu_share=float(trial.user_attrs.get(GPU_SHARE, 0.0)),
        reason=trial.user_attrs.get(REASON),
        accumulation=trial.user_attrs.get(ACCUMULATION),
        memory_bytes=trial.user_attrs.get(MEMORY),
    )
