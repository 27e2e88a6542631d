"""The search itself: trials on Ray, one session after the other, until a limit is reached."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from data_prep.common.wording import counted
from lcnn.outcome import Outcome
from search.console.progress import SearchProgress
from search.errors import RunFailed
from search.execution.checkpoints import CheckpointKeeper
from search.execution.context import trial_context
from search.execution.tune_search import run_trials
from search.run.opened import Run
from search.spec.settings import Spec
from search.study.budget.limits import Limit, Tally, planned_trials, reached
from search.study.conductor import MOST_CRASHES, Conductor, Event
from search.study.ledger import Ledger, TrialRecord
from search.study.objectives.pareto import FrontGuard, cost_of
from search.study.scheduling.schedulers import build_scheduler, expected_epochs


def limit_reached(spec: Spec, ledger: Ledger) -> Limit | None:
    """The limit at which the search has ended; None while it may go on or a trial is open."""
    trials = ledger.trials()
    if any(trial.outcome is None for trial in trials):
        return None
    return reached(spec.budget, Tally(trials), ledger.search_seconds, exhausted=ledger.is_exhausted())


def search(run: Run, on_ended: Callable[[TrialRecord], None]) -> None:
    """Run what is left of the search on a started Ray.

    Args:
        run: the run.
        on_ended: called with every trial that ends.

    Raises:
        KeyboardInterrupt: it was stopped from outside.
        RunFailed: the machine is broken or its disk full, or not one trial gave a value.
    """
    if limit_reached(run.spec, run.ledger) is None:
        _search_session(run, on_ended)
    limit = limit_reached(run.spec, run.ledger)
    if limit is None:
        raise KeyboardInterrupt  # Tune was asked to stop from outside, by SIGUSR1
    run.display.say(f"The search has ended: {limit}")
    if not run.ledger.ranking():
        counts = Counter(trial.outcome.value for trial in run.ledger.trials() if trial.outcome)
        ends = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        raise RunFailed(f"no trial gave a value ({ends}); see run.log, and start anew with other settings and --name")


def _search_session(run: Run, on_ended: Callable[[TrialRecord], None]) -> None:
    spec, ledger, slots = run.spec, run.ledger, run.slots
    context = trial_context(run)
    progress = _progress(run)
    stopwatch = Stopwatch(ledger, slots.at_once)
    keeper = CheckpointKeeper(context, max(1, spec.confirm.top), ledger.trials())

    def on_event(event: Event) -> None:
        stopwatch.keep()
        if event.kind == "finished":
            keeper.ended(event.trial)
            on_ended(event.trial)
        progress(event)

    scheduler = build_scheduler(spec.scheduler, spec.steps)
    if cost := cost_of(spec.objective):
        scheduler = FrontGuard(scheduler, ledger.trials, cost)
    conductor = Conductor(
        ledger,
        run.space,
        scheduler,
        budget=spec.budget,
        epochs=spec.steps,
        seconds=lambda: stopwatch.seconds,
        place=slots.place,
        uses_gpu=slots.device == "cuda",
        on_event=on_event,
    )
    try:
        run_trials(conductor, context, verbose=run.session.view.verbose)
    finally:
        run.display.clear()
        stopwatch.keep()
    if conductor.halted:
        raise RunFailed(f"{conductor.halted}; make room, then the same command goes on")
    if conductor.broken:
        raise RunFailed(
            f"{MOST_CRASHES} trials crashed in a row ({conductor.broken}); mend it, then the same command goes on"
        )


def _progress(run: Run) -> SearchProgress:
    """The display of the search, which begins with a line on its length."""
    spec, trials = run.spec, run.ledger.trials()
    planned = planned_trials(spec, run.space)
    most = "trials" if planned is None else counted(planned, "trial")
    run.display.say(f"Searching: {most} of at most {trial_length(spec)}, trial 0 is the defaults")
    return SearchProgress(
        run.display,
        trials=planned,
        finished=sum(trial.outcome not in (None, Outcome.CRASHED) for trial in trials),
        best=Tally(trials).best,
        slots=run.slots.at_once,
        steps=spec.steps,
        expected_steps=partial(expected_epochs, spec.scheduler, spec.steps),
        unit=spec.step_unit,
    )


def trial_length(spec: Spec) -> str:
    """What a trial that nobody stops goes through, for people."""
    if not spec.folds.count:
        return counted(spec.epochs, "epoch")
    joined = "one after the other, each of" if spec.folds.use == "fidelity" else "side by side, of"
    return f"{spec.folds.count} folds {joined} {counted(spec.epochs, 'epoch')}"


class Stopwatch:
    """Adds the time since it was last asked to the study, so that a hard kill loses at most one epoch of it.

    Args:
        ledger: the study.
        slots: trial slots of this session.
    """

    def __init__(self, ledger: Ledger, slots: int) -> None:
        self._ledger, self._slots, self._last = ledger, slots, time.monotonic()
        self._kept, self._slot_seconds = ledger.search_seconds, ledger.slot_seconds

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of searching, over all sessions."""
        return self._kept + time.monotonic() - self._last

    def keep(self) -> None:
        """Write the time that has gone by."""
        now = time.monotonic()
        self._kept += now - self._last
        self._slot_seconds += self._slots * (now - self._last)
        self._last = now
        self._ledger.set_search_seconds(self._kept, self._slot_seconds)
