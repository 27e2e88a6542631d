"""The seventh stage: the winner leaves as a folder of its own."""

from typing import Any

from search.run.evaluation import read_evaluation
from search.run.opened import Run
from search.stages.stage import OffRay
from search.stages.train_finally import trained
from search.winner.final import export_winner

NAME = "export"


class Export(OffRay):
    """Export the winner's model, settings and history."""

    def is_done(self, run: Run) -> bool:
        """The model of this test was exported, and is there."""
        return run.folder.model.exists() and run.course.left(NAME, made_for(run)) is not None

    def do(self, run: Run) -> None:
        """Export it."""
        jobs = trained(run)
        assert jobs is not None, "an earlier stage trains them"
        graphs = export_winner(run, jobs["winner"], read_evaluation(run.folder))
        for graph in graphs:
            run.display.say(f"Exported: {graph}")
        run.course.record(NAME, made_for(run), {"graphs": [str(graph) for graph in graphs]})


def made_for(run: Run) -> dict[str, Any]:
    """On what the export depends."""
    evaluation = read_evaluation(run.folder) if run.folder.evaluation.exists() else {}
    return {key: evaluation.get(key) for key in ("winner", "epochs", "opening")}
