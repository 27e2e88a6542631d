"""The course of a search: who runs next, who goes on, what is kept. Knows the study and the rules, not Ray.

Whatever executes trials calls `next_trial`, `report` and `finish`; each returns only after the study holds what
was said. After a restart the conductor is built anew from the study and goes on where it stood.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from lcnn.config import TrainConfig
from lcnn.fit import EpochResult
from lcnn.outcome import Outcome
from lcnn.settings_file import describe
from search.ledger import DEFAULTS, Ledger, TrialRecord
from search.memory import Placement, with_accumulation
from search.scheduler import Decision, Scheduler
from search.space import SearchSpace

OUT_OF_TIME = "out of time"
TOO_LARGE = "takes more than a whole card, even one stack at a time"
MOST_CRASHES = 3
"""After so many crashes in a row without an epoch between them the machine is taken for broken."""


Place = Callable[[TrainConfig, int | None], Placement | None]
"""How a training, begun with so many micro-batches if it was begun, is fitted onto a card; None where it cannot be."""


@dataclass(frozen=True)
class Proposal:
    """A trial to be run, or to be continued."""

    number: int
    config: TrainConfig
    known_epochs: int
    """Epochs that the study already holds; their results need not be reported again."""
    share: float = 0.0
    """Of a card, for this trial."""


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
        trials: how many trials the search has in all.
        epochs: full budget of one trial.
        out_of_time: whether the wall-clock budget is spent; then nothing new starts and what runs is stopped.
        place: fits a training onto a card; see `search.resources.Slots.place`.
        on_event: told of everything that happens.
    """

    def __init__(
        self,
        ledger: Ledger,
        space: SearchSpace,
        scheduler: Scheduler,
        *,
        trials: int,
        epochs: int,
        out_of_time: Callable[[], bool] = lambda: False,
        place: Place = lambda config, begun: Placement(0.0, begun or config.train.accumulation),
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._ledger, self._space, self._scheduler = ledger, space, scheduler
        self._trials, self._epochs = trials, epochs
        self._out_of_time, self._place, self._on_event = out_of_time, place, on_event
        self._curves: dict[int, list[float]] = {}
        self._seconds: dict[int, float] = {}
        self._waiting: deque[int] = deque()
        self._crashes = 0
        for trial in ledger.trials():
            scheduler.recall(trial.number, trial.curve)
            if trial.outcome is None:
                self._curves[trial.number] = list(trial.curve)
                self._seconds[trial.number] = trial.seconds
                self._waiting.append(trial.number)

    def next_trial(self) -> Proposal | None:
        """The next trial: first those that an interruption left unfinished, then new ones; None at the end."""
        while self._waiting:
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
        self._on_event(Event(self._ledger.trial(number), "epoch"))
        return self._decide(number)

    def finish(self, number: int, outcome: Outcome, reason: str | None = None) -> None:
        """Record how a trial ended; a trial that has ended stays as it is."""
        if self._curves.pop(number, None) is None:
            return
        self._crashes += outcome == Outcome.CRASHED
        self._ledger.finish(number, outcome, reason)
        self._on_event(Event(self._ledger.trial(number), "finished"))

    def _decide(self, number: int) -> Decision:
        curve = self._curves[number]
        decision = self._scheduler.decide(number, curve)
        if len(curve) >= self._epochs:
            return Decision.CONTINUE  # its training ends by itself, completed
        if number == DEFAULTS:
            # The yardstick runs to its end: what the search gained is measured against a full training.
            decision = Decision.CONTINUE
        reason = None
        if self._out_of_time():
            decision, reason = Decision.STOP, OUT_OF_TIME
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
        if curve and self._decide(number) == Decision.STOP:
            return False
        if self._out_of_time():
            self.finish(number, Outcome.PRUNED, OUT_OF_TIME)
            return False
        return True

    def _is_over(self) -> bool:
        spent = self._ledger.counted() >= self._trials
        return spent or self._out_of_time() or self._crashes >= MOST_CRASHES

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
        self._ledger.record_accumulation(number, placement.accumulation)
        self._on_event(Event(self._ledger.trial(number), "started"))
        return Proposal(number, config, len(self._curves[number]), placement.share)
