"""Train one trial of a run on all training patients, and test it."""

from pathlib import Path

from data_prep.common.errors import InputError
from lcnn.outcome import Outcome
from lcnn.scoring.evaluation import estimate_text, summarise, write_evaluation
from search.console.display import Display
from search.console.words import short_params
from search.errors import RunFailed
from search.execution.context import trial_context
from search.execution.measuring.slots import recalled_slots
from search.execution.tune_search import ray_running
from search.run.evaluation import read_evaluation
from search.run.folder import RunFolder
from search.run.opened import open_run
from search.study.ledger import Ledger, TrialRecord
from search.winner.final import final_job, fold_epochs, test_models
from search.winner.finalists import train


def retrain(run_root: Path, number: int | None, results: Path, display: Display) -> None:
    """Train one trial of a run on all training patients and test it.

    Args:
        run_root: the run.
        number: the trial; None for the run's winner.
        results: folder of all runs, for the compiled cohort.
        display: where to report.

    Raises:
        InputError: no run, no such trial, or one without a value.
        RunFailed: the trial's settings did not train again.
    """
    run = open_run(run_root, results, display)
    with run.folder.locked():
        run.folder.check_test_openings()
        display.log_to(run.folder.root / "run.log")
        trial = pick_trial(run.folder, run.ledger, number)
        run.slots = recalled_slots(run)
        display.say(f"Trial {trial.number}: {short_params(trial.params)}")
        cohort = run.prepared.data.cohort
        by_fold = run.spec.step_unit == "folds"
        job = final_job(trial, run.space, fold_epochs(trial_context(run), trial.number) if by_fold else None)
        jobs = {"trial": job}
        with ray_running(run.slots, on_death=display.failed):
            outcomes = train(jobs, run)
        if outcomes[job.number] != Outcome.COMPLETED:
            raise RunFailed(f"the final training of trial {job.number} ended {outcomes[job.number]}")
        reason = f"retraining of trial {job.number}"
        folder = run.folder.final / str(job.number)
        summary = summarise(test_models(run, jobs, reason=reason, out=folder, slices=None))
        about = {"trial": job.number, "synthetic": cohort.synthetic, "opening": run.folder.last_test_opening()}
        write_evaluation(folder / "evaluation.json", {**about, **summary})
    synthetic = " (SYNTHETIC cohort)" if cohort.synthetic else ""
    display.say(f"Trial {job.number}: test Dice {estimate_text(summary['models']['trial']['dice'])}{synthetic}")
    display.say(f"Model, figures and pictures: {folder}")


def pick_trial(run: RunFolder, ledger: Ledger, number: int | None) -> TrialRecord:
    """The trial to retrain: the one of that number, or the run's winner.

    Raises:
        InputError: there is none of that number, none that can be retrained, or no winner yet.
    """
    usable = sorted(trial.number for trial in ledger.ranking())
    if not usable:
        raise InputError(f"{run.root}: no finished trial to retrain; let the search go on first")
    if number is None:
        if not run.evaluation.exists():
            raise InputError(
                f"{run.root}: no winner yet, as its search has not come to the test; let the search go on, or name a "
                f"trial (--trial {ledger.ranking()[0].number} is the best so far, unconfirmed)"
            )
        number = read_evaluation(run)["winner"]
    if number not in usable:
        shown = ", ".join(str(n) for n in usable[:20])
        raise InputError(f"--trial {number}: not a finished trial of {run.root}; choose from {shown}")
    return ledger.trial(number)
