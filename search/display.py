"""What a person sees while a run works: calm lines, and on a terminal one live line at the bottom."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lcnn.outcome import Outcome
from search.space import Value
from search.study.conductor import Event
from search.study.ledger import TrialRecord

log = logging.getLogger("search.run")
HEARTBEAT_S = 20.0
"""Without a terminal, a line of progress at most this often."""


class Display:
    """Prints to standard output and to the run's log.

    Args:
        live: keep a status line at the bottom; for terminals.
    """

    def __init__(self, *, live: bool | None = None) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._is_live = self._console.is_terminal if live is None else live
        self._live: Live | None = None
        self._last_beat = 0.0
        self._unlogged: list[str] = []

    def log_to(self, path: Path) -> None:
        """Keep a copy of all lines, those already said included, with their times in ``path``."""
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(handler)
        for text in self._unlogged:
            log.info(text)
        self._unlogged.clear()

    def say(self, text: str = "") -> None:
        """A line that stays."""
        self._console.print(Text(text))
        if not log.handlers:
            self._unlogged.append(text)
        log.info(text)

    def status(self, text: str) -> None:
        """How things stand: replaces the live line, or is printed now and then without a terminal."""
        if self._is_live:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=4, transient=True)
                self._live.start()
            self._live.update(Text(text, style="dim"))
        elif time.monotonic() - self._last_beat >= HEARTBEAT_S:
            self._last_beat = time.monotonic()
            self.say(f"  {text}")

    def clear(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def failed(self, reason: str) -> None:
        """Why the program ends, on standard error."""
        self.clear()
        log.info("failed: %s", reason)
        sys.stderr.write(f"failed: {reason}\n")
        sys.stderr.flush()

    def progress(self, what: str, done: int, total: int) -> None:
        """Status of a piece of work that is counted."""
        self.status(f"{what}: {done} of {total}")


class SearchProgress:
    """Turns a search's events into lines: one a finished trial, and a status with the time left.

    Args:
        display: where to.
        trials: trials of the whole search.
        finished: trials that earlier sittings finished.
        best: best value so far.
        expected_epochs: that a trial has before it after so many; for the time left.
        unit: what a trial's steps are: epochs, or folds.
    """

    def __init__(
        self,
        display: Display,
        *,
        trials: int,
        finished: int,
        best: float | None,
        expected_epochs: Callable[[int], float],
        unit: str = "epochs",
    ) -> None:
        self._display, self._unit = display, unit
        self._trials, self._done, self._best = trials, finished, best
        self._expected_epochs = expected_epochs
        self._running: dict[int, int] = {}
        self._epochs = 0
        self._started = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Show what happened to a trial."""
        trial = event.trial
        self._best = max((value for value in (self._best, trial.best) if value is not None), default=None)
        if event.kind == "finished":
            self._running.pop(trial.number, None)
            self._done += 1
            self._display.say(trial_line(trial, self._unit))
        else:
            self._running[trial.number] = len(trial.curve)
            self._epochs += event.kind == "epoch"
        self._display.status(self._status())

    def _status(self) -> str:
        best = "none yet" if self._best is None else f"{self._best:.3f}"
        return f"{self._done} of {self._trials} trials done, best validation Dice {best}, {self._time_left()}"

    def _time_left(self) -> str:
        if not self._epochs:
            return "time left: measuring the first step"
        pace_s = (time.monotonic() - self._started) / self._epochs
        waiting = self._trials - self._done - len(self._running)
        underway = sum(self._expected_epochs(done) for done in self._running.values())
        return f"about {minutes((waiting * self._expected_epochs(0) + underway) * pace_s)} left"


def trial_line(trial: TrialRecord, unit: str = "epochs") -> str:
    """A trial in one line: number, how good it was, after how many steps, how it ended, settings."""
    score = f"Dice {trial.best:.3f}" if trial.best is not None else "no value"
    end = trial.outcome or "unfinished"
    if trial.outcome in (Outcome.CRASHED, Outcome.PRUNED) and trial.reason:
        end = f"{end} ({trial.reason})"
    return f"trial {trial.number:>3}  {score}  {len(trial.curve):>2} {unit}  {end:<10} {short_params(trial.params)}"


def short_params(params: Mapping[str, Value]) -> str:
    """Parameters for people: the last part of each name, numbers with three digits."""
    texts = []
    for name, value in params.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        texts.append(f"{name.rsplit('.', 1)[-1]}={shown}")
    return " ".join(texts)


def minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{round(seconds)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
