"""The sixth stage: the test part is opened, once, for the winner and the defaults."""

from collections.abc import Mapping
from typing import Any

from data_prep.cohort.split import PARTS
from data_prep.intensity.window import in_words
from lcnn.scoring.evaluation import summarise, write_evaluation
from search.run.evaluation import EVALUATION_FORMAT, read_evaluation
from search.run.opened import Run
from search.stages.confirm import summary
from search.stages.stage import OffRay
from search.stages.train_finally import made_for, trained
from search.study.objectives.pareto import cost_of, front_summary
from search.winner.confirm import validation_dice
from search.winner.final import FinalJob, overtuning, test_models


class Test(OffRay):
    """Measure the finally trained models on patients that no trial has read."""

    def is_done(self, run: Run) -> bool:
        """The evaluation is of these trainings, after this search."""
        jobs = trained(run)
        if jobs is None or not run.folder.evaluation.exists():
            return False
        evaluation = read_evaluation(run.folder)
        return is_of(evaluation, jobs) and {key: evaluation[key] for key in made_for(run)} == made_for(run)

    def do(self, run: Run) -> None:
        """Test, unless these very models were tested before; the figures are kept before anything else is done."""
        jobs = trained(run)
        assert jobs is not None, "the stage before trains them"
        known = read_evaluation(run.folder) if run.folder.evaluation.exists() else None
        if known is not None and is_of(known, jobs):
            run.display.say("The winner is the one that was tested before; the test patients are not opened again")
        else:
            known = measure(run, jobs)
        write_evaluation(run.folder.evaluation, known | searched(run, jobs, known))


def is_of(evaluation: Mapping[str, Any], jobs: Mapping[str, FinalJob]) -> bool:
    """Whether an evaluation is of these very trainings."""
    known = (evaluation["winner"], evaluation["epochs"])
    return known == (jobs["winner"].number, {role: job.epochs for role, job in jobs.items()})


def searched(run: Run, jobs: Mapping[str, FinalJob], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the search says beside the test."""
    cost, confirmation = cost_of(run.spec.objective), summary(run)
    validation = validation_dice(run.ledger.trial(jobs["winner"].number), confirmation)
    return {
        **made_for(run),
        "slots_busy": run.ledger.busy_share,
        "confirmation": confirmation,
        "pareto": front_summary(run.ledger.trials(), cost) if cost else None,
        "overtuning": overtuning(validation, evaluation["models"]["winner"]["dice"]),
    }


def measure(run: Run, jobs: Mapping[str, FinalJob]) -> dict[str, Any]:
    """Open the test part for the winner and the defaults; the figures, and what they were measured on."""
    prepared, folder = run.prepared, run.folder
    split, cohort = prepared.split, prepared.data.cohort
    run.display.say(f"Testing on {split.size('test')} that no trial has read")
    reason = f"final evaluation of {', '.join(jobs)}"
    results = test_models(run, jobs, reason=reason, out=folder.root, slices=folder.slices)
    return {
        "format": EVALUATION_FORMAT,
        "cohort": cohort.name,
        "cohort_hash": cohort.hash,
        "synthetic": cohort.synthetic,
        "windows": in_words(prepared.data.store.windows),
        "profile": run.spec.profile,
        "patients": {part: split.patient_count(part) for part in PARTS},
        "winner": jobs["winner"].number,
        "epochs": {role: job.epochs for role, job in jobs.items()},
        "opening": folder.last_test_opening(),
        "near_duplicates": len(prepared.alike),
        **summarise(results),
    }
