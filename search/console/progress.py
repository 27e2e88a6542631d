"""The events of a search on the display: a line for every trial that ends, and what runs now."""

import time
from collections.abc import Callable

from data_prep.common.wording import counted
from lcnn.outcome import Outcome
from search.console.display import Display
from search.console.trial_table import TrialTable
from search.console.words import minutes, trial_line
from search.study.conductor import Event
from search.study.ledger import TrialRecord


class SearchProgress:
    """Shows a search by its events.

    Args:
        display: where to.
        trials: trials of the whole search; None where their number is no limit.
        finished: trials that earlier sessions finished.
        best: best value so far.
        slots: trials that run at once.
        steps: of a trial that nobody stops.
        expected_steps: that a trial has before it after so many; for the time left.
        unit: what a trial's steps are: epochs, or folds.
    """

    def __init__(
        self,
        display: Display,
        *,
        trials: int | None,
        finished: int,
        best: float | None,
        slots: int,
        steps: int,
        expected_steps: Callable[[int], float],
        unit: str = "epochs",
    ) -> None:
        self._display = display
        self._trials, self._done, self._best = trials, finished, best
        self._slots, self._steps, self._unit = slots, steps, unit
        self._expected_steps = expected_steps
        self._running: dict[int, TrialRecord] = {}
        self._steps_seen = 0
        self._started = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show what happened to a trial."""
        trial = event.trial
        self._best = max((value for value in (self._best, trial.best) if value is not None), default=None)
        if event.kind == "finished":
            self._running.pop(trial.number, None)
            self._done += trial.outcome != Outcome.CRASHED  # which costs no trial of the budget
            self._display.row(trial_line(trial, self._unit))
        else:
            self._running[trial.number] = trial
            self._steps_seen += event.kind == "epoch"
        status = self._status()
        running = [self._running[number] for number in sorted(self._running)]
        self._display.show(TrialTable(running, self._steps, self._unit, status), status)

    def _status(self) -> str:
        best = "none yet" if self._best is None else f"{self._best:.3f}"
        busy = min(1.0, len(self._running) / self._slots)
        done = f"{self._progress_in_words()} done"
        return f"{done}, best Dice {best}, slots busy {busy:.0%}, {self._time_left()}"

    def _progress_in_words(self) -> str:
        if self._trials is None:
            return counted(self._done, "trial")
        # A budget that was lowered may be less than what earlier sessions began.
        return f"{self._done} of {counted(max(self._trials, self._done + len(self._running)), 'trial')}"

    def _time_left(self) -> str:
        if not self._steps_seen or self._trials is None:
            return "time left unknown"
        pace_s = (time.monotonic() - self._started) / self._steps_seen
        waiting = max(0, self._trials - self._done - len(self._running))
        underway = sum(self._expected_steps(len(trial.curve)) for trial in self._running.values())
        return f"about {minutes((waiting * self._expected_steps(0) + underway) * pace_s)} left"
