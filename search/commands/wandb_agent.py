"""One trial of a W&B sweep, trained by the same code, on the same split and store, as a trial of the search.

Started by `wandb agent`, with the command that `python -m search.wandb_sweep` writes into the sweep. What W&B drew
becomes a configuration through the same space file; every epoch's figures go to W&B, which may stop the trial. The
trial is also kept in results/<name>-<profile>-sweep, from where experiments.compare reads it.
"""

import argparse
import json
import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from data_prep.common.cli_errors import Parser, cli_errors, stop_on_signals
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import write_text_atomically
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from lcnn.settings_file import describe
from lcnn.training.fit import EpochResult
from search.console.display import Display
from search.execution.context import trial_context
from search.execution.trial import start_training
from search.run.folder import RunFolder, check_spec, run_folder, write_spec
from search.run.opened import Run
from search.spec.settings import Overrides, Spec, load_spec
from search.spec.space import Params
from search.tracking.mode import project
from search.tracking.runs import METRIC
from search.tracking.sweep import drawn_params

RECORD = "trial.json"
"""In a trial's folder: what it was, and how it ended."""


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, required=True, metavar="FILE", help="the space file")
    parser.add_argument("--profile", default="auto", metavar="NAME", help="its profile")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="folder of all runs")
    options = parser.parse_args(arguments)
    stop_on_signals()  # W&B stops a trial by a polite kill
    overrides = Overrides(options.profile, tuple(options.set))
    spec = load_spec(options.space, overrides, has_gpu=torch.cuda.is_available())
    run_trial(spec, options.space, options.results)
    return 0


def sweep_folder(results: Path, spec: Spec) -> RunFolder:
    """Where the trials of a space file's sweeps are kept."""
    root = run_folder(results, spec).root
    return RunFolder(root.with_name(f"{root.name}-sweep"))


def run_trial(spec: Spec, where: Path, results: Path) -> None:
    """Train what W&B has drawn.

    Raises:
        InputError: no cohort, or the sweep or the folder is of another space file.
    """
    import wandb  # noqa: PLC0415

    folder = sweep_folder(results, spec)
    run = Run(spec, folder, results, Display(), where)
    if not check_spec(folder, spec):
        write_spec(folder, spec)
    facts = {"profile": spec.profile, "synthetic": run.prepared.data.cohort.synthetic}
    context = trial_context(run)
    settings = wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True)
    try:
        tracked = wandb.init(project=project(), dir=str(folder.root), settings=settings)
    except wandb.Error as error:
        raise InputError(f"W&B: {first_line(error)}; start the agent again once that is mended") from error
    with tracked:
        params = drawn_params(run.space, dict(tracked.config))
        record = SweepTrial(folder.trials / tracked.id, params, os.environ.get("WANDB_SWEEP_ID"))
        try:
            config = run.space.config(params)
        except ValidationError as error:
            refuse(tracked, record, describe(error, TrainConfig))
            return
        tracked.config.update({"settings": config.model_dump(mode="json"), **facts})
        # A trial of a sweep has its pool to itself.
        training = start_training(context, tracked.id, config, share=1.0)
        outcome = follow(training, tracked, record)
        tracked.summary["outcome"] = outcome.value
        tracked.finish(exit_code=0)


def refuse(tracked: Any, record: "SweepTrial", reason: str) -> None:
    """Tell W&B and the record of a draw whose settings exclude each other; for the sweep it is the worst there is."""
    record.end(Outcome.INFEASIBLE, reason)
    tracked.summary.update({"outcome": Outcome.INFEASIBLE.value, "reason": reason, METRIC: 0.0})
    Display().say(f"{Outcome.INFEASIBLE.value}: {reason}")


def follow(training: Generator[EpochResult, None, Outcome], tracked: Any, record: "SweepTrial") -> Outcome:
    """Tell W&B and the record of every epoch; how the training ended. What W&B or a person stops counts as pruned."""
    try:
        while True:
            result = next(training)
            record.add(result)
            figures = {key: value for key, value in asdict(result).items() if value is not None}
            tracked.log(figures, step=result.epoch, commit=True)
            # W&B's search goes by the summary, which is the last value unless it is said to be the best.
            tracked.summary[METRIC] = max(record.curve)
    except StopIteration as end:
        outcome: Outcome = end.value
    except KeyboardInterrupt:
        outcome = Outcome.PRUNED
    record.end(outcome)
    return outcome


class SweepTrial:
    """Keeps what a trial was and how it went, epoch by epoch, for a killed one too.

    Args:
        folder: the trial's.
        params: the point that W&B drew.
        sweep: W&B's name for the sweep.
    """

    def __init__(self, folder: Path, params: Params, sweep: str | None) -> None:
        self._path = folder / RECORD
        self._fixed = {"params": params, "sweep": sweep}
        self.curve: list[float] = []
        self._seconds = 0.0

    def add(self, result: EpochResult) -> None:
        """Keep an epoch."""
        self.curve.append(result.val_dice or 0.0)
        self._seconds += result.seconds
        self._write(None)

    def end(self, outcome: Outcome, reason: str | None = None) -> None:
        """Keep how it ended, and why where the outcome does not say it all."""
        self._write(outcome.value, reason)

    def _write(self, outcome: str | None, reason: str | None = None) -> None:
        reported = datetime.now(UTC).isoformat()
        record = {
            **self._fixed,
            "outcome": outcome,
            "reason": reason,
            "told": reported,
            "seconds": self._seconds,
            "curve": self.curve,
        }
        write_text_atomically(self._path, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
