"""The course of a search: who runs next, who goes on, what is kept. Knows the study and the rules, not Ray.

Whatever executes trials calls `next_trial`, `report` and `finish`; each returns only after the study holds what
was said. After a restart the conductor is built anew from the study and goes on where it stood.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from lcnn.settings_file import describe
from lcnn.training.fit import EpochResult
from search.placement.memory import Placement, with_accumulation
from search.spec.settings import BudgetConfig
from search.spec.space import SearchSpace
from search.study.budget.limits import Limit, Tally, reached
from search.study.ledger import DEFAULTS, Ledger, TrialRecord
from search.study.scheduling.schedulers import Decision, Scheduler

TOO_LARGE = "takes more memory than there is, even one stack at a time"
MOST_CRASHES = 3
"""After so many crashed trials in a row without an epoch between them the machine is taken for broken."""
CRASH_RETRIES = 2
"""Times that a trial goes on from its checkpoint after its worker broke, in one session."""


Place = Callable[[TrainConfig, int | None], Placement | None]
"""How a training, begun with so many micro-batches if it was begun, is fitted onto a pool; None where it cannot be."""


@dataclass(frozen=True)
class Proposal:
    """A trial to be run, or to be continued."""

    number: int
    config: TrainConfig
    known_epochs: int
    """Epochs that the study already holds; their results need not be reported again."""
    share: float = 0.0
    """Of a pool, for this trial."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial, for displays."""

    trial: TrialRecord
    kind: str
    """started, epoch or finished."""


class Conductor:
    """Runs a search over a ledger.

    Args:
        ledger: the study.
        space: its space.
        scheduler: who stops trials; filled here from the study.
        budget: when the search ends.
        epochs: full budget of one trial.
        seconds: wall-clock time spent searching so far, over all sessions.
        place: fits a training onto a pool; see `search.placement.resources.Slots.place`.
        uses_gpu: whether that pool is a GPU, whose time the budget counts.
        on_event: called with everything that happens.
    """

    def __init__(
        self,
        ledger: Ledger,
        space: SearchSpace,
        scheduler: Scheduler,
        *,
        budget: BudgetConfig,
        epochs: int,
        seconds: Callable[[], float] = lambda: 0.0,
        place: Place = lambda config, begun: Placement(0.0, begun or config.train.accumulation),
        uses_gpu: bool = False,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._ledger, self._space, self._scheduler = ledger, space, scheduler
        self._budget, self._epochs = budget, epochs
        self._seconds_searched, self._on_event = seconds, on_event
        self._place, self._uses_gpu = place, uses_gpu
        self._curves: dict[int, list[float]] = {}
        self._seconds: dict[int, float] = {}
        self._waiting: deque[int] = deque()
        self._decided: set[int] = set()
        """Trials whose newest epoch was decided on in this session."""
        self._breaks: Counter[int] = Counter()
        self._crashes = 0
        self._last_crash = ""
        self.halted: str | None = None
        """Why nothing more is started in this session."""
        trials = ledger.trials()
        self._tally = Tally(trials)
        for trial in trials:
            scheduler.recall(trial.number, trial.curve)
            if trial.outcome is None:
                self._curves[trial.number] = list(trial.curve)
                self._seconds[trial.number] = trial.seconds
                self._waiting.append(trial.number)

    def next_trial(self) -> Proposal | None:
        """The next trial: first those that an interruption left unfinished, then new ones; None at the end."""
        while self._waiting and not self.halted:
            number = self._waiting.popleft()
            if self._pick_up(number) and (proposal := self._propose(number)) is not None:
                return proposal
        while not self._is_over():
            number = self._ledger.ask()
            self._curves[number], self._seconds[number] = [], 0.0
            if (proposal := self._propose(number)) is not None:
                return proposal
        return None

    def report(self, number: int, result: EpochResult) -> Decision:
        """Record an epoch, then decide. An epoch that is already recorded changes nothing."""
        curve = self._curves.get(number)
        if curve is None:
            return Decision.STOP  # already finished here; the executor's message was under way
        if result.epoch <= len(curve):
            return Decision.CONTINUE
        if result.epoch != len(curve) + 1 or result.val_dice is None:
            raise ValueError(f"trial {number} reported epoch {result.epoch} after epoch {len(curve)}")
        self._crashes = 0
        self._seconds[number] += result.seconds
        self._ledger.record_epoch(number, result.epoch, result.val_dice, self._seconds[number])
        curve.append(result.val_dice)
        self._tell(number, "epoch")
        self._decided.add(number)
        return self._decide(number)

    def finish(self, number: int, outcome: Outcome, reason: str | None = None) -> None:
        """Record how a trial ended; a trial that has ended stays as it is."""
        if self._curves.pop(number, None) is None:
            return
        if outcome == Outcome.CRASHED:
            self._crashes += 1
            self._last_crash = reason or "no reason given"
        self._ledger.finish(number, outcome, reason)
        self._tell(number, "finished")

    def crash(self, number: int, reason: str) -> None:
        """A trial's worker broke: the trial waits to go on from its checkpoint, unless that has come too often."""
        if number not in self._curves:
            return
        self._breaks[number] += 1
        if self._breaks[number] > CRASH_RETRIES:
            self.finish(number, Outcome.CRASHED, reason)
        else:
            self._waiting.append(number)

    def halt(self, reason: str) -> None:
        """Start nothing more in this session; what is unfinished stays so and goes on in the next."""
        self.halted = self.halted or reason

    @property
    def broken(self) -> str | None:
        """Why the machine is taken for broken: the last of so many crashes in a row; None where it is not."""
        return self._last_crash if self._crashes >= MOST_CRASHES else None

    def reached(self) -> Limit | None:
        """The limit that the search has come to; None where it may go on."""
        exhausted = self._ledger.is_exhausted()
        return reached(self._budget, self._tally, self._seconds_searched(), exhausted=exhausted)

    def _tell(self, number: int, kind: str) -> None:
        trial = self._ledger.trial(number)
        self._tally.update(trial)
        self._on_event(Event(trial, kind))

    def _must_stop(self) -> Limit | None:
        """The limit for which what runs is stopped as well."""
        # Asked after every epoch; whether the space is exhausted is costly to know and stops nothing that runs.
        limit = reached(self._budget, self._tally, self._seconds_searched())
        return limit if limit and limit.stops_running else None

    def _decide(self, number: int) -> Decision:
        curve = self._curves[number]
        decision = self._scheduler.decide(number, curve)
        if len(curve) >= self._epochs:
            return Decision.CONTINUE  # its training ends by itself, completed
        if number == DEFAULTS:
            # The yardstick runs to its end: what the search gained is measured against a full training.
            decision = Decision.CONTINUE
        reason = None
        if limit := self._must_stop():
            decision, reason = Decision.STOP, limit.value
        if decision == Decision.STOP:
            self.finish(number, Outcome.PRUNED, reason)
            return Decision.STOP
        return Decision.CONTINUE

    def _pick_up(self, number: int) -> bool:
        """Whether an unfinished trial is to run on; if its fate was already sealed, it is recorded."""
        curve = self._curves[number]
        if len(curve) >= self._epochs:
            self.finish(number, Outcome.COMPLETED)
            return False
        if curve and number not in self._decided and self._decide(number) == Decision.STOP:
            return False
        if limit := self._must_stop():
            self.finish(number, Outcome.PRUNED, limit.value)
            return False
        return True

    def _is_over(self) -> bool:
        return self.halted is not None or self.reached() is not None or self.broken is not None

    def _propose(self, number: int) -> Proposal | None:
        """The trial's proposal; None where it cannot be trained, which is recorded as infeasible."""
        params = self._ledger.draw_params(number)
        try:
            config = self._space.config(params)
            # A training that was begun keeps its micro-batches: they are part of what its checkpoint belongs to.
            placement = self._place(config, self._ledger.trial(number).accumulation)
            if placement is None:
                self.finish(number, Outcome.INFEASIBLE, TOO_LARGE)
                return None
            config = with_accumulation(config, placement.accumulation)
        except ValidationError as error:
            self.finish(number, Outcome.INFEASIBLE, describe(error, TrainConfig))
            return None
        self._ledger.record_placement(
            number,
            accumulation=placement.accumulation,
            gpu_share=placement.share if self._uses_gpu else 0.0,
            memory_bytes=placement.memory_bytes,
        )
        self._tell(number, "started")
        return Proposal(number, config, len(self._curves[number]), placement.share)
