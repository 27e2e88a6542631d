"""The course of a run: its stages in order, walked from wherever an earlier session stopped."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from search.execution.session.dashboard import how_to_open
from search.execution.tune_search import ray_running
from search.run.opened import Run
from search.stages.confirm import Confirm
from search.stages.earlier import adopt_earlier
from search.stages.export import Export
from search.stages.measure import Measure
from search.stages.prepare import Prepare
from search.stages.report import Report
from search.stages.search import Search
from search.stages.stage import Stage
from search.stages.test import Test
from search.stages.train_finally import TrainFinally

SESSION: Sequence[Stage] = (Prepare(), Measure())
"""What each session does anew, for what it opens and measures is not kept whole."""
LASTING: Sequence[Stage] = (Search(), Confirm(), TrainFinally(), Test(), Export(), Report())
"""What is done once."""


def is_finished(run: Run) -> bool:
    """Whether the run has nothing left to do."""
    adopt_earlier(run)
    return all(stage.is_done(run) for stage in LASTING)


def walk(run: Run) -> None:
    """Do what is left of a run, stage by stage; Ray runs for as long as a stage needs it.

    Raises:
        InputError, RunFailed, KeyboardInterrupt: see `search.stages.stage.Stage.do`.
    """
    with ExitStack() as ray:
        is_open = False
        for stage in (*SESSION, *LASTING):
            if stage.is_done(run):
                continue
            if stage.is_on_ray(run) and not is_open:
                ray.enter_context(_ray(run))
            elif is_open and not stage.is_on_ray(run):
                ray.close()
            is_open = stage.is_on_ray(run)
            stage.do(run)


@contextmanager
def _ray(run: Run) -> Iterator[None]:
    address, view = run.session.address, run.session.view
    with ray_running(run.slots, address, run.display.failed, view) as dashboard:
        if address is not None:
            run.display.say(f"Cluster at {address}")
        elif view.dashboard:
            run.display.say(how_to_open(dashboard))
        yield
