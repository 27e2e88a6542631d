"""The fourth stage: the best trials and the defaults are trained again, before a winner is named."""

from typing import Any

from search.run.opened import Run
from search.stages.stage import OnRay
from search.winner.confirm import confirmation_summary
from search.winner.finalists import Finalist, finalists

NAME = "confirm"


class Confirm(OnRay):
    """Rank the trials by what they are worth with other seeds."""

    def is_done(self, run: Run) -> bool:
        """These trials were confirmed in this way."""
        return run.course.left(NAME, made_for(run)) is not None

    def do(self, run: Run) -> None:
        """Train the candidates with other seeds; those that were trained are only read back."""
        ranked, confirmation = finalists(run)
        run.course.record(
            NAME,
            made_for(run),
            {
                "finalists": [{"trial": one.trial.number, "epochs": one.epochs} for one in ranked],
                "summary": confirmation_summary(confirmation) if confirmation else None,
            },
        )


def made_for(run: Run) -> dict[str, Any]:
    """On what a ranking depends."""
    return {"trials": len(run.ledger), "confirm": run.spec.confirm.model_dump(mode="json")}


def ranking(run: Run) -> list[Finalist] | None:
    """The trials that may win, the best first; None before they were confirmed."""
    left = run.course.left(NAME, made_for(run))
    if left is None:
        return None
    return [Finalist(run.ledger.trial(one["trial"]), one["epochs"]) for one in left["finalists"]]


def summary(run: Run) -> dict[str, Any] | None:
    """The confirmation for evaluation.json; None where nothing was confirmed."""
    left = run.course.left(NAME, made_for(run))
    return left["summary"] if left else None
