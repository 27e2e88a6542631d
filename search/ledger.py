"""The study: the single truth of a search.

Every trial's parameters, every epoch's value, its outcome and where its files lie are here before the next
decision is taken. Nothing else holds anything that could not be rebuilt from it, and tools that read Optuna
studies (optuna-dashboard) work on any run.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine

from lcnn.outcome import Outcome
from search.space import Params, SearchSpace
from search.spec import SamplerConfig
from search.storage import StudyStorage
from search.tpe import Observations, build_tpe

log = logging.getLogger(__name__)

DEFAULTS = 0
"""Number of the trial that runs the file's own settings."""
CONSTRAINT = "can be trained"
"""Violated by trials that diverge or do not fit into memory."""
OUTCOME = "outcome"
REASON = "reason"
SECONDS = "seconds"
FOLDER = "folder"
SEARCH_SECONDS = "search_seconds"
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
    reason: str | None = None
    """Why it ended, where the outcome does not say it all."""

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


class Ledger:
    """Reads and writes one study.

    Args:
        url: database of the study, for example ``sqlite:///results/lcnn/study.db``.
        name: name of the study in it.
        space: turns trials into parameters.
        sampler: who proposes.
    """

    def __init__(self, url: str, name: str, space: SearchSpace, sampler: SamplerConfig) -> None:
        self._space, self._sampler = space, sampler
        self._live: dict[int, optuna.Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = StudyStorage(url)
        self.study = optuna.create_study(
            storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
        )
        self._records: list[TrialRecord] = []
        self._waiting: set[int] = set()
        self._crashed: set[int] = set()
        self._observations = Observations()

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

    def winner(self, without: Collection[int] = ()) -> TrialRecord | None:
        """The best completed trial; where none completed, the best that was pruned; None where none has a value."""
        finished = [trial for trial in self.trials() if trial.is_usable and trial.number not in without]
        completed = [t for t in finished if t.outcome == Outcome.COMPLETED]
        return max(completed or finished, key=lambda t: (t.best or 0.0, -t.number), default=None)

    @property
    def search_seconds(self) -> float:
        """Wall-clock seconds spent searching, over all sittings."""
        return float(self.study.user_attrs.get(SEARCH_SECONDS, 0.0))

    def _update(self) -> None:
        """Make the records of the trials that changed anew; the others stay as they are."""
        self._storage.refresh()
        for number in sorted(self._storage.take_changed()):
            trial = self._storage.trial(number)
            record = _record(trial)
            self._records[number : number + 1] = [record]
            _mark(self._waiting, number, trial.state == TrialState.WAITING)
            _mark(self._crashed, number, record.outcome == Outcome.CRASHED)
            if trial.state.is_finished():
                self._observations.add(trial)

    def _shown(self) -> list[FrozenTrial] | None:
        """The trials that the sampler sees; None: all."""
        # Which trials are good among several objectives is not a matter of rank alone.
        if self._sampler.name != "tpe" or len(self.study.directions) > 1:
            return None
        self._update()
        running = [trial for trial in self._storage.unfinished() if trial.state == TrialState.RUNNING]
        return self._observations.shown(running)

    # --- writing ----------------------------------------------------------------------------------------

    def ask(self) -> int:
        """Number of a new trial. The first is the defaults; the others are the sampler's."""
        number = len(self)
        self.study.sampler = build_sampler(self._sampler, number)
        if number == DEFAULTS and not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(dict(self._space.params(self._space.defaults)))
        with self._storage.transaction():
            trial = self.study.ask()
            trial.set_user_attr(FOLDER, f"trials/{trial.number}")
        self._live[trial.number] = trial
        return trial.number

    def draw_params(self, number: int) -> Params:
        """Parameters of an unfinished trial; those that it does not have yet are drawn now."""
        trial = self._trial(number)
        with self._storage.transaction(), self._storage.showing(self._shown()):
            return self._space.suggest(trial)

    def record_epoch(self, number: int, epoch: int, value: float, seconds: float) -> None:
        """Keep an epoch's value and the trial's training time so far."""
        trial = self._trial(number)
        with self._storage.transaction():
            trial.report(value, epoch)
            trial.set_user_attr(SECONDS, seconds)

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

    def add_search_seconds(self, seconds: float) -> None:
        """Add to the wall-clock time spent searching."""
        self.study.set_user_attr(SEARCH_SECONDS, self.search_seconds + seconds)

    def _trial(self, number: int) -> optuna.Trial:
        """The open trial; one that an earlier process opened is taken up with the sampler it was opened with."""
        if number not in self._live:
            self.study.sampler = build_sampler(self._sampler, number)
            frozen = self.study.get_trials(deepcopy=False)[number]
            self._live[number] = optuna.Trial(self.study, frozen._trial_id)
        return self._live[number]


def build_sampler(config: SamplerConfig, number: int) -> optuna.samplers.BaseSampler:
    """The sampler for one trial, seeded by the trial's number: a resumed search draws what it would have."""
    seed = (config.seed * 1_000_003 + number) % 2**32
    if config.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return build_tpe(config, seed)


def _mark(numbers: set[int], number: int, belongs: bool) -> None:
    if belongs:
        numbers.add(number)
    else:
        numbers.discard(number)


def _record(trial: FrozenTrial) -> TrialRecord:
    told = trial.user_attrs.get(OUTCOME)
    return TrialRecord(
        number=trial.number,
        params=dict(trial.params),
        curve=tuple(trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)),
        outcome=None if trial.state not in ENDS else Outcome(told) if told else ENDS[trial.state],
        seconds=float(trial.user_attrs.get(SECONDS, 0.0)),
        reason=trial.user_attrs.get(REASON),
    )
