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

from data_prep.files import replacing
from search.run_folder import RunFolder
from search.space import Params
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
    """Bring the event files of a run up to date: those of these trials, their confirmations and final trainings.

    Args:
        run: its trainings' histories are read, and ``tensorboard`` is written.
        trials: only those that have ended are written. Of one whose history is not in the run's folder but in its
            storage, validation Dice is known from the study.
    """
    for trial in trials:
        if trial.outcome is not None:
            _write_trial(run, trial)
    for history in (*run.confirm.glob(f"*/{HISTORY}"), *run.final.glob(f"*/{HISTORY}")):
        target = run.tensorboard / history.parent.relative_to(run.root) / EVENTS
        if _is_older(target, history):
            _write(target, _steps(history), {}, None)


def _write_trial(run: RunFolder, trial: TrialRecord) -> None:
    folder = run.trials / str(trial.number)
    target = run.tensorboard / folder.relative_to(run.root)
    history = folder / HISTORY
    if _is_older(target / EVENTS, history):
        # A worker that was killed may have left an epoch that the study does not know.
        known = _steps(history).head(len(trial.curve)) if history.exists() else pd.DataFrame({"val_dice": trial.curve})
        _write(target / EVENTS, known, trial.params, trial.best)
    for fold in folder.glob(f"fold-*/{HISTORY}"):
        if _is_older(target / fold.parent.name / EVENTS, fold):
            _write(target / fold.parent.name / EVENTS, _steps(fold), {}, None)


def _is_older(target: Path, history: Path) -> bool:
    """Whether the event file is not there, or was written before the history's last epoch."""
    if not target.exists():
        return True
    return history.exists() and target.stat().st_mtime_ns < history.stat().st_mtime_ns


def _steps(history: Path) -> pd.DataFrame:
    """A history with the time, in seconds since 1970, at which each epoch ended; the file is as old as its last."""
    steps = pd.read_csv(history)
    left_s = steps["seconds"][::-1].cumsum()[::-1] - steps["seconds"]
    return steps.assign(time=history.stat().st_mtime - left_s)


def _write(target: Path, steps: pd.DataFrame, params: Params, best: float | None) -> None:
    with tempfile.TemporaryDirectory(prefix="lcnn-events-") as scratch:
        with SummaryWriter(scratch) as writer:
            for tag, value, epoch, time in _scalars(steps):
                writer.add_scalar(tag, value, epoch, walltime=time)
            if params and best is not None:
                for summary in hparams(dict(params), {METRIC: best}):
                    writer.file_writer.add_summary(summary)
                writer.add_scalar(METRIC, best, len(steps))
        (written,) = Path(scratch).iterdir()
        with replacing(target) as partial:
            partial.write_bytes(written.read_bytes())


def _scalars(steps: pd.DataFrame) -> Iterator[tuple[str, float, int, float | None]]:
    """Tag, value, epoch and time of every figure that there is."""
    for column, tag in TAGS.items():
        if column in steps:
            for epoch, (value, time) in enumerate(zip(steps[column], _times(steps), strict=True), start=1):
                if not math.isnan(value):  # a final training has no validation patients
                    yield tag, float(value), epoch, time


def _times(steps: pd.DataFrame) -> list[float | None]:
    return list(steps["time"]) if "time" in steps else [None] * len(steps)
