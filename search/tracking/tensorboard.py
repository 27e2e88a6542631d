"""Event files for TensorBoard, one a training, written from its history.

A file is written whole when its training has ended, and again only where the history has changed since: so however
often a run is interrupted, no step is in it twice. Its events bear the times at which their epochs ended.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from data_prep.common.files import replacing
from search.run.folder import RunFolder
from search.study.ledger import TrialRecord

EVENTS = "events.out.tfevents.lcnn"
"""TensorBoard finds event files by this name's middle part."""
HISTORY = "history.csv"
METRIC = "best_val_dice"
TAGS = {
    "val_dice": "validation/dice",
    "loss": "loss/total",
    "dice_loss": "loss/dice",
    "cross_entropy": "loss/cross_entropy",
    "alignment_loss": "loss/alignment",
    "lr": "optim/lr",
    "angle_deg": "alignment/angle_deg",
}
"""Where TensorBoard shows which column of a history."""


def write_tensorboard(run: RunFolder, trials: Iterable[TrialRecord]) -> None:
    """Bring all event files of a run up to date.

    Args:
        run: its trainings' histories are read, and ``tensorboard`` is written.
        trials: its trials.
    """
    for trial in trials:
        write_trial(run, trial)
    for history in (*run.confirm.glob(f"**/{HISTORY}"), *run.final.glob(f"**/{HISTORY}")):
        _write_history(run, history)


def write_trial(run: RunFolder, trial: TrialRecord) -> None:
    """Bring a trial's event file up to date, and those of its folds; of an unfinished trial, nothing is written.

    Where its history is not in the run's folder but in its storage, validation Dice is known from the study.
    """
    if trial.outcome is None:
        return
    folder = run.trials / str(trial.number)
    history = folder / HISTORY
    target = _target(run, history)
    if _is_older(target, history):
        # A worker that was killed may have left an epoch that the study does not know.
        known = _epochs(history).head(len(trial.curve)) if history.exists() else pd.DataFrame({"val_dice": trial.curve})
        _write(target, known, trial)
    for fold in folder.glob(f"fold-*/{HISTORY}"):
        _write_history(run, fold)


def _write_history(run: RunFolder, history: Path) -> None:
    target = _target(run, history)
    if _is_older(target, history):
        _write(target, _epochs(history))


def _target(run: RunFolder, history: Path) -> Path:
    return run.tensorboard / history.parent.relative_to(run.root) / EVENTS


def _is_older(target: Path, history: Path) -> bool:
    """Whether the event file is not there, or was written before the history's last epoch."""
    if not target.exists():
        return True
    return history.exists() and target.stat().st_mtime_ns < history.stat().st_mtime_ns


def _epochs(history: Path) -> pd.DataFrame:
    """A history with the time, in seconds since 1970, at which each epoch ended; the file is as old as its last."""
    epochs = pd.read_csv(history)
    since_s = epochs["seconds"].sum() - epochs["seconds"].cumsum()
    return epochs.assign(time=history.stat().st_mtime - since_s)


def _write(target: Path, epochs: pd.DataFrame, trial: TrialRecord | None = None) -> None:
    with tempfile.TemporaryDirectory(prefix="lcnn-events-") as scratch:
        with SummaryWriter(scratch) as writer:
            for tag, value, epoch, time in _scalars(epochs):
                writer.add_scalar(tag, value, epoch, walltime=time)
            if trial is not None and trial.best is not None:
                for summary in hparams(dict(trial.params), {METRIC: trial.best}):
                    writer.file_writer.add_summary(summary)
                writer.add_scalar(METRIC, trial.best, trial.best_epoch)
        (written,) = Path(scratch).iterdir()
        with replacing(target) as partial:
            partial.write_bytes(written.read_bytes())


def _scalars(epochs: pd.DataFrame) -> Iterator[tuple[str, float, int, float | None]]:
    """Tag, value, epoch and time of every figure that there is."""
    times = epochs["time"] if "time" in epochs else [None] * len(epochs)
    for column in epochs.columns.intersection(list(TAGS)):
        for epoch, (value, time) in enumerate(zip(epochs[column], times, strict=True), start=1):
            if not math.isnan(value):  # a final training has no validation patients
                yield TAGS[column], float(value), epoch, time
