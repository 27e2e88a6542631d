"""The last stage: the page, TensorBoard's files and the closing words."""

from typing import Any

from search.report.page import write_report
from search.report.summary import closing_summary
from search.run.opened import Run
from search.stages.export import made_for as exported_for
from search.stages.stage import OffRay
from search.stages.train_finally import made_for as trained_for
from search.tracking.tensorboard import write_tensorboard

NAME = "report"


class Report(OffRay):
    """Sum the run up."""

    def is_done(self, run: Run) -> bool:
        """The page of this test is there."""
        return run.folder.report.exists() and run.course.left(NAME, made_for(run)) is not None

    def do(self, run: Run) -> None:
        """Write the page."""
        write_tensorboard(run.folder, run.ledger.trials())
        write_report(run)
        run.course.record(NAME, made_for(run), {})
        run.display.say(closing_summary(run.folder, run.ledger))


def made_for(run: Run) -> dict[str, Any]:
    """On what the page depends."""
    return {**exported_for(run), **trained_for(run)}
