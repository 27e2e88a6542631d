"""After the search: train the winner and the defaults on all training patients, and test each of them once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median_low
from typing import Any

import pandas as pd
import yaml

from data_prep.cohort.layout import check_patients
from data_prep.common.files import write_text_atomically
from lcnn.config import TrainConfig, TrainingConfig
from lcnn.export.model_card import Evidence, Graph
from lcnn.export.model_folder import export_model
from lcnn.inference.model_file import hash_split, load_model
from lcnn.outcome import Outcome
from lcnn.scoring.evaluate import PatientResult, evaluate
from lcnn.scoring.evaluation import write_patients
from lcnn.scoring.overlay import save_best_median_worst
from lcnn.scoring.slices import write_slices
from search.errors import RunFailed
from search.execution.trainings import Training, run_trainings
from search.execution.trial import TrialContext, fetch_training
from search.run.opened import Run
from search.spec.space import SearchSpace
from search.study.ledger import TrialRecord, settings_of

HISTORY = "history.csv"
"""A training's losses and validation Dice, a row an epoch."""


@dataclass(frozen=True)
class FinalJob:
    """One training on the training and validation patients."""

    number: int
    """The trial whose settings it uses."""
    config: TrainConfig
    epochs: int
    """Best epoch by validation Dice: chosen before any test patient is seen."""


def final_job(trial: TrialRecord, space: SearchSpace, epochs: int | None = None) -> FinalJob:
    """The final training of a trial's settings, for the trial's own best epoch unless another number is given.

    Raises:
        RunFailed: the trial has no epoch to go by.
    """
    epochs = epochs or trial.best_epoch
    if epochs is None:
        raise RunFailed(f"trial {trial.number} ended {trial.outcome} before its first epoch")
    return FinalJob(trial.number, settings_of(trial, space), epochs)


def fold_epochs(context: TrialContext, number: int) -> int:
    """Epochs for a final training of a trial whose steps were folds: the median over the folds of the best epoch.

    Args:
        context: the trial's, with its folds.
        number: the trial.

    Raises:
        RunFailed: the folds' histories are not there any more.
        OSError: the run's storage does not answer.
    """
    trained = [f"{number}/fold-{fold}" for fold in range(len(context.folds))]
    for key in trained:
        fetch_training(context, key, [HISTORY])
    files = [context.folder / key / HISTORY for key in trained]
    histories = [pd.read_csv(file) for file in files if file.exists()]
    if not histories:
        raise RunFailed(
            f"{context.folder / str(number)}: no history of its folds, which tells for how many epochs to train"
        )
    return median_low(int(history["epoch"][history["val_dice"].argmax()]) for history in histories)


def train_final(
    jobs: Sequence[FinalJob], context: TrialContext, folder: Path, on_epoch: Callable[[int], None]
) -> dict[int, Outcome]:
    """Run the trainings side by side on a started Ray; those that were interrupted go on where they stopped.

    Args:
        jobs: what to train.
        context: a trial's context, of which training and validation patients are joined.
        folder: where each keeps its state, by its number.
        on_epoch: called with the number of epochs done.

    Returns:
        How each training ended, by number.

    Raises:
        RunFailed: a worker broke more often than it is retried.
    """
    joined = replace(context.unfolded, folder=folder.resolve(), train=(*context.train, *context.val), val=())
    trained = run_trainings([Training(str(job.number), job.config, job.epochs) for job in jobs], joined, on_epoch)
    for job in jobs:
        fetch_training(joined, str(job.number))
    return {job.number: trained[str(job.number)].outcome for job in jobs}


def export_winner(run: Run, job: FinalJob, evaluation: Mapping[str, Any]) -> list[Graph]:
    """Put the winner where people look for it: the model's folder, its settings as text, its history.

    Args:
        run: where; says every step before it begins.
        job: the winner, trained.
        evaluation: its figures, for the model card.

    Returns:
        The graphs, those that failed among them.
    """
    root, trained = run.folder.root, run.folder.final / str(job.number)
    model = load_model(trained / "last.pt")
    graphs = export_model(
        run.folder.model,
        model,
        formats=run.spec.exports,
        split_hash=hash_split(root),
        evidence=Evidence(root.resolve().name, evaluation),
        on_step=lambda step: run.display.say(f"Exporting: {step}"),
    )
    settings = TrainingConfig(training=model.config, picture=model.picture)
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    write_text_atomically(root / "best_config.yaml", text)
    history = (trained / HISTORY).read_text(encoding="utf-8")
    write_text_atomically(root / "training_history.csv", history)
    return graphs


def test_models(
    run: Run, jobs: Mapping[str, FinalJob], *, reason: str, out: Path, slices: Path | None
) -> dict[str, list[PatientResult]]:
    """Open the test part, once for all models, and score each patient; keep the table, and pictures of the first model.

    Args:
        run: the run, with its cohort; logs the opening.
        jobs: finally trained settings by role (winner, defaults).
        reason: noted in the log of openings.
        out: folder for patients.csv and overlays.
        slices: where to keep slices of all test patients, to be looked at later; None: nowhere.

    Raises:
        InputError: files of test patients changed since the cohort was opened, or the log was tampered with.
    """
    data, patients = run.prepared.data, run.prepared.split.test
    cohort, root = data.cohort, data.root
    check_patients(cohort, root, patients)
    run.folder.log_test_opening(f"{len(patients)} patients: {reason}")
    results: dict[str, list[PatientResult]] = {}
    for role, job in jobs.items():
        model = load_model(run.folder.final / str(job.number) / "last.pt", run.slots.device)
        is_shown = not results  # the first is the one that people look at
        keep = partial(write_slices, slices) if is_shown and slices is not None else None
        results[role] = evaluate(model, cohort, root, patients, on_case=keep)
        if is_shown:
            save_best_median_worst(out / "overlays", results[role], model, cohort, root)
    write_patients(out / "patients.csv", results)
    return results


def overtuning(validation: float | None, test: Mapping[str, Any]) -> dict[str, float | None]:
    """What the winner's validation Dice promised and what its test Dice holds.

    A large gap says that the settings were fitted to the validation patients. A small one is also the work of other
    differences: the test is on each patient's own pixels, of a model that was trained on more patients.

    Args:
        validation: the winner's validation Dice, confirmed where it was.
        test: the stored estimate of its test Dice.
    """
    mean = test["mean"]
    gap = None if validation is None or mean is None else validation - mean
    return {"validation": validation, "test": mean, "gap": gap}
