"""The third stage: the search itself, until a limit is reached."""

from functools import partial

from search.execution.searching import limit_reached, search
from search.report.summary import write_front, write_trials_table
from search.run.opened import Run
from search.stages.stage import OnRay
from search.study.objectives.pareto import cost_of
from search.tracking.tensorboard import write_trial


class Search(OnRay):
    """Run trials."""

    def is_done(self, run: Run) -> bool:
        """A limit is reached and no trial is open."""
        return limit_reached(run.spec, run.ledger) is not None

    def do(self, run: Run) -> None:
        """Search on to the next limit."""
        search(run, partial(write_trial, run.folder))
        trials = run.ledger.trials()
        write_trials_table(run.folder.trials_table, trials)
        if cost := cost_of(run.spec.objective):
            write_front(run.folder.pareto, trials, cost)
