"""After the search: train the winner and the defaults on all training patients, and test each of them once."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import yaml

from data_prep.files import write_text_atomically
from lcnn.config import TrainConfig
from lcnn.evaluate import PatientResult, evaluate
from lcnn.intervals import Estimate, estimate_difference, estimate_mean
from lcnn.model_file import load_model, save_model
from lcnn.outcome import Outcome
from lcnn.overlay import save_overlay
from search.errors import RunFailed
from search.ledger import TrialRecord
from search.prepare import Prepared
from search.run_folder import RunFolder
from search.space import SearchSpace
from search.trial import OUTCOME_KEY, TrialContext, stream_training

METRICS = ("dice", "precision", "recall", "hd95")


@dataclass(frozen=True)
class FinalJob:
    """One training on the training and validation patients."""

    number: int
    """The trial whose settings it uses."""
    config: TrainConfig
    epochs: int
    """The trial's best epoch by validation Dice: chosen before any test patient is seen."""


def final_job(trial: TrialRecord, space: SearchSpace) -> FinalJob:
    """The final training of a trial's settings.

    Raises:
        RunFailed: the trial has no epoch to go by.
    """
    if trial.best_epoch is None:
        raise RunFailed(f"trial {trial.number} ended {trial.outcome} before its first epoch")
    return FinalJob(trial.number, space.config(trial.params), trial.best_epoch)


def train_final(jobs: Sequence[FinalJob], context: TrialContext, on_epoch: Callable[[FinalJob, int], None]) -> None:
    """Run the trainings side by side on a started Ray; those that were interrupted go on where they stopped.

    Args:
        jobs: what to train.
        context: a trial's context, of which train and validation patients are joined.
        on_epoch: told of every epoch.

    Raises:
        RunFailed: a training diverged or did not fit into memory.
    """
    joined = replace(context, train=(*context.train, *context.val), val=())
    task = ray.remote(stream_training).options(
        num_returns="streaming",
        num_cpus=joined.slots.threads,
        num_gpus=joined.slots.gpu_share,
        max_retries=2,
    )
    streams = {task.remote(joined, job.number, job.config.model_dump_json(), job.epochs): job for job in jobs}
    while streams:
        ready, _ = ray.wait(list(streams), num_returns=1)
        job = streams[ready[0]]
        result = ray.get(next(ready[0]))
        if OUTCOME_KEY not in result:
            on_epoch(job, result["epoch"])
            continue
        del streams[ready[0]]
        if result[OUTCOME_KEY] != Outcome.COMPLETED:
            raise RunFailed(f"the final training of trial {job.number} ended {result[OUTCOME_KEY]}")


def export_winner(run: RunFolder, job: FinalJob) -> None:
    """Put the winner where people look for it: weights with settings, the settings as text, the history."""
    trained = run.final / str(job.number)
    model, config = load_model(trained / "last.pt")
    save_model(run.model / "model.pt", model, config)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_text_atomically(run.model / "config.yaml", text)
    write_text_atomically(run.root / "best_config.yaml", text)
    history = (trained / "history.csv").read_text(encoding="utf-8")
    write_text_atomically(run.root / "training_history.csv", history)


def test_models(
    run: RunFolder, jobs: Mapping[str, FinalJob], prepared: Prepared, device: str, *, reason: str
) -> dict[str, list[PatientResult]]:
    """Open the test part, once for all models, and score each patient.

    Args:
        run: logs the opening.
        jobs: finally trained settings by role (winner, defaults).
        prepared: the cohort with its split.
        device: torch device.
        reason: noted in the log of openings.
    """
    run.log_test_opening(f"{len(prepared.split.test)} patients: {reason}")
    results: dict[str, list[PatientResult]] = {}
    for role, job in jobs.items():
        model, config = load_model(run.final / str(job.number) / "last.pt", device)
        results[role] = evaluate(model, config, prepared.store, prepared.cohort, prepared.root, prepared.split.test)
    return results


def save_overlays(folder: Path, results: Sequence[PatientResult], model_path: Path, prepared: Prepared) -> None:
    """Pictures of the best, median and worst test patient by Dice."""
    ranked = sorted((r for r in results if not is_undefined(r.dice)), key=lambda r: -r.dice)
    if not ranked:
        return
    model, config = load_model(model_path)
    picks = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    label = " (synthetic)" if prepared.cohort.synthetic else ""
    for word, result in picks.items():
        draw = partial(save_overlay, folder / f"{word}.png", title=f"{word}: {result.patient}{label}")
        evaluate(
            model,
            config,
            prepared.store,
            prepared.cohort,
            prepared.root,
            [result.patient],
            on_case=draw,
        )


def summarise(results: Mapping[str, Sequence[PatientResult]]) -> dict[str, Any]:
    """Means with intervals for every model, and the winner's paired difference to the defaults."""
    models = {
        role: {metric: asdict(_mean(rows, metric)) for metric in METRICS} | _volumes(rows)
        for role, rows in results.items()
    }
    summary: dict[str, Any] = {"models": models}
    if "winner" in results and "defaults" in results:
        summary["difference"] = {
            metric: asdict(
                estimate_difference(_column(results["winner"], metric), _column(results["defaults"], metric))
            )
            for metric in METRICS
        }
    return summary


def _cell(value: str | float) -> str | float:
    if isinstance(value, str):
        return value
    return "" if is_undefined(value) else round(value, 6)


def is_undefined(value: object) -> bool:
    """Whether a figure is NaN, which by the empty rule means that there is none."""
    return isinstance(value, float) and math.isnan(value)


def _column(rows: Sequence[PatientResult], metric: str) -> list[float]:
    return [getattr(row, metric) for row in rows]


def _mean(rows: Sequence[PatientResult], metric: str) -> Estimate:
    return estimate_mean(_column(rows, metric))


def _volumes(rows: Sequence[PatientResult]) -> dict[str, Any]:
    """Absolute volume error over all patients, and false alarms on those without lesion."""
    free = [row for row in rows if row.true_volume == 0]
    error = estimate_mean([abs(row.predicted_volume - row.true_volume) for row in rows])
    return {
        "absolute_volume_error": asdict(error),
        "volume_unit": "/".join(sorted({row.volume_unit for row in rows})),
        "distance_unit": "/".join(sorted({row.distance_unit for row in rows})),
        "lesion_free_patients": len(free),
        "lesion_free_with_false_alarm": sum(row.predicted_volume > 0 for row in free),
    }


def write_patients(path: Path, results: Mapping[str, Sequence[PatientResult]]) -> None:
    """All test figures, a row a model and patient; an undefined value is an empty cell."""
    buffer = io.StringIO()
    columns = ["model", *(f.name for f in fields(PatientResult))]
    writer: csv.DictWriter[str] = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for role, rows in results.items():
        for row in rows:
            values = {key: _cell(value) for key, value in asdict(row).items()}
            writer.writerow({"model": role, **values})
    write_text_atomically(path, buffer.getvalue())


def write_evaluation(path: Path, content: Mapping[str, Any]) -> None:
    """The evaluation as JSON."""
    write_text_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
