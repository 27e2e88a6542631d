"""The fifth stage: the winner and the defaults are trained on training and validation patients."""

from collections.abc import Mapping
from typing import Any

from search.run.opened import Run
from search.stages.confirm import made_for as confirmed_for
from search.stages.confirm import ranking
from search.stages.stage import OnRay
from search.winner.final import FinalJob, final_job
from search.winner.finalists import train_winner

NAME = "train_finally"


class TrainFinally(OnRay):
    """Train the winner, and beside it the defaults."""

    def is_done(self, run: Run) -> bool:
        """They were trained, and their models are there."""
        jobs = trained(run)
        return jobs is not None and all(
            (run.folder.final / str(job.number) / "last.pt").exists() for job in jobs.values()
        )

    def do(self, run: Run) -> None:
        """Train them."""
        ranked = ranking(run)
        assert ranked is not None, "the stage before ranks them"
        jobs = train_winner(ranked, run)
        left = {role: {"trial": job.number, "epochs": job.epochs} for role, job in jobs.items()}
        run.course.record(NAME, made_for(run), left)


def made_for(run: Run) -> dict[str, Any]:
    """On what the final trainings depend."""
    return confirmed_for(run)


def trained(run: Run) -> Mapping[str, FinalJob] | None:
    """What was trained finally, by role (winner, defaults); None before it was."""
    left = run.course.left(NAME, made_for(run))
    if left is None:
        return None
    return {role: final_job(run.ledger.trial(job["trial"]), run.space, job["epochs"]) for role, job in left.items()}
