"""After the search: train the winner and the defaults on all training patients, and test each of them once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml

from data_prep.files import write_text_atomically
from lcnn.config import TrainConfig, TrainingConfig
from lcnn.evaluate import PatientResult, evaluate
from lcnn.model_file import load_model, save_model
from lcnn.outcome import Outcome
from lcnn.slices import write_slices
from search.errors import RunFailed
from search.execution.trainings import Training, run_trainings, settings_of
from search.execution.trial import TrialContext, fetch_training
from search.prepare import Prepared
from search.run_folder import RunFolder
from search.space import SearchSpace
from search.study.ledger import TrialRecord


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


def train_final(
    jobs: Sequence[FinalJob], context: TrialContext, folder: Path, on_epoch: Callable[[int], None]
) -> dict[int, Outcome]:
    """Run the trainings side by side on a started Ray; those that were interrupted go on where they stopped.

    Args:
        jobs: what to train.
        context: a trial's context, of which training and validation patients are joined.
        folder: where each keeps its state, by its number.
        on_epoch: told the number of epochs done.

    Returns:
        How each training ended, by number.

    Raises:
        RunFailed: a worker broke more often than it is retried.
    """
    joined = replace(context, folder=folder.resolve(), train=(*context.train, *context.val), val=())
    trained = run_trainings([Training(str(job.number), job.config, job.epochs) for job in jobs], joined, on_epoch)
    for job in jobs:
        fetch_training(joined, str(job.number))
    return {job.number: trained[str(job.number)].outcome for job in jobs}


def export_winner(run: RunFolder, job: FinalJob) -> None:
    """Put the winner where people look for it: weights with settings, the settings as text, the history."""
    trained = run.final / str(job.number)
    model = load_model(trained / "last.pt")
    save_model(run.model / "model.pt", model)
    settings = TrainingConfig(**dict(model.config), picture=model.picture)
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    write_text_atomically(run.model / "config.yaml", text)
    write_text_atomically(run.root / "best_config.yaml", text)
    history = (trained / "history.csv").read_text(encoding="utf-8")
    write_text_atomically(run.root / "training_history.csv", history)


def test_models(
    run: RunFolder,
    jobs: Mapping[str, FinalJob],
    prepared: Prepared,
    device: str,
    *,
    reason: str,
    pictures: Path | None,
) -> dict[str, list[PatientResult]]:
    """Open the test part, once for all models, and score each patient.

    Args:
        run: logs the opening.
        jobs: finally trained settings by role (winner, defaults).
        prepared: the cohort with its split.
        device: torch device.
        reason: noted in the log of openings.
        pictures: where to keep slices of the winner's test patients, to be looked at later; None: nowhere.
    """
    run.log_test_opening(f"{len(prepared.split.test)} patients: {reason}")
    results: dict[str, list[PatientResult]] = {}
    for role, job in jobs.items():
        model = load_model(run.final / str(job.number) / "last.pt", device)
        on_case = partial(write_slices, pictures) if pictures is not None and role == "winner" else None
        results[role] = evaluate(model, prepared.data.cohort, prepared.data.root, prepared.split.test, on_case=on_case)
    return results
