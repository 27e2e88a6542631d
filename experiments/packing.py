"""How many trials an hour one pool gives when several share it.

    python -m experiments.packing --out packing.json       1, 2, 4 and 8 at once on a GPU: the gpu profile at 256x256
    python -m experiments.packing --profile cpu            1 and 2 at once on the cores of a computer without one

The trials are real trainings of the file's own settings on the synthetic cohort (or --cohort), each in a worker of
Ray with its share of the pool, as in a search; only their seeds differ. All are under way before anything is counted:
then each gives --epochs epochs, and its speed is the mean of their times, validation included. A trial is taken as
one of all epochs of the profile. What a trial measures is measured first, as a search does; it says how many a search
would have run at once.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import ray
import torch

from data_prep.cohort.store import Store
from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError, last_line
from data_prep.common.files import write_text_atomically
from data_prep.common.machine import available_cores
from experiments.speed import open_data
from lcnn.config import CosineRestarts, TrainConfig
from lcnn.dotted import replaced
from search.errors import RunFailed
from search.execution.measuring.probe import ForkServer, MemoryPool, MemoryUse, find_pool, measurer_in
from search.execution.trainings import Training, start_stream
from search.execution.trial import OUTCOME_KEY, TrialContext
from search.execution.tune_search import ray_running
from search.placement.memory import MemoryProfile, share_of
from search.placement.rehearsal import usual_normalisation
from search.placement.resources import Slots
from search.run.prepare import find_cohort, window_count
from search.spec.settings import Overrides, Spec, load_spec

AT_ONCE = {"cuda": (1, 2, 4, 8), "cpu": (1, 2)}
GPU_IMAGE_SIZE = 256
VALIDATION_SHARE = 0.15
MOST_EPOCHS = 1_000_000
"""More than anybody waits for."""
UNMEASURED = "unmeasured here: no GPU. On a machine with one: python -m experiments.packing --out packing.json"


@dataclass(frozen=True)
class Row:
    """One number of trials at once."""

    at_once: int
    epoch_s: float | None
    """Mean wall-clock time of an epoch of one of them; None where they did not fit."""
    trials_an_hour: float | None
    gain: float | None
    """Trials an hour as a multiple of one at once."""


def measure(spec: Spec, store: Store, device: str, at_once: Sequence[int], epochs: int) -> list[Row]:
    """A row for each number of trials at once."""
    rows: list[Row] = []
    for count in at_once:
        times = epoch_times(spec, store, device, count, epochs)
        if times is None:
            rows.append(Row(count, None, None, None))
            continue
        hourly = sum(3600 / mean(seconds) for seconds in times) / spec.epochs
        first = rows[0].trials_an_hour if rows else hourly
        rows.append(Row(count, mean(map(mean, times)), hourly, hourly / first if first else None))
    return rows


def epoch_times(spec: Spec, store: Store, device: str, count: int, epochs: int) -> list[list[float]] | None:
    """Seconds of so many epochs of each trial while all of them run; None where one does not fit."""
    gpus = 1 if device == "cuda" else 0
    slots = Slots(count, spec.resources.threads, gpus / count, gpus, "cuda" if gpus else "cpu")
    seen: list[list[float]] = [[] for _ in range(count)]
    first: list[int] | None = None
    with tempfile.TemporaryDirectory(prefix="lcnn-packing-") as folder, ray_running(slots):
        for trial, result in results(spec.training, trial_context(Path(folder), store, slots), count):
            if OUTCOME_KEY in result:
                return None
            seen[trial].append(result["seconds"])
            if first is None and all(seen):
                # The epochs that are under way began before the last of them had.
                first = [len(seconds) + 1 for seconds in seen]
            if first and all(len(seconds) - start >= epochs for seconds, start in zip(seen, first, strict=True)):
                return [seconds[start : start + epochs] for seconds, start in zip(seen, first, strict=True)]
    raise AssertionError("a training without end ended")


def results(config: TrainConfig, context: TrialContext, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Epochs of so many trainings side by side, which go on for as long as they are iterated."""
    # One that stopped early would leave the pool to the others.
    loop = config.train.model_copy(update={"early_stopping": MOST_EPOCHS})
    # Only restarts go on beyond the profile's epochs.
    endless = config.model_copy(update={"train": loop, "schedule": CosineRestarts()})
    streams = {}
    for trial in range(count):
        training = Training(str(trial), replaced(endless, {"train.seed": trial}), MOST_EPOCHS)
        streams[start_stream(training, context, context.slots.gpu_share, retries=0)] = trial
    while streams:
        (stream, *_), _ = ray.wait(list(streams), num_returns=1)
        try:
            yield streams[stream], ray.get(next(stream))
        except ray.exceptions.RayError as error:
            raise RunFailed(f"a training broke off ({last_line(error)})") from error


def trial_context(folder: Path, store: Store, slots: Slots) -> TrialContext:
    """What the trials share: a few of the patients validate."""
    patients = tuple(store.patients)
    val = max(1, round(VALIDATION_SHARE * len(patients)))
    normalisation = usual_normalisation(store.window_count)
    return TrialContext(folder, store.folder.resolve(), patients[val:], patients[:val], normalisation, slots)


def memory_of_a_trial(spec: Spec, device: str, windows: int) -> tuple[MemoryPool, MemoryUse]:
    """What one of the trials takes, on slices in so many windows, and of what."""
    with ForkServer() as fork_server:
        pool = find_pool(fork_server, device, 1)
        scale = measurer_in(fork_server, device, spec.resources.threads, pool)
        return pool, scale(MemoryProfile.of(spec.training, spec.cohort.image_size, windows))


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=Path("spaces/lcnn.yaml"))
    parser.add_argument("--profile", default="gpu", help="profile of the space file (default gpu)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--at-once", type=int, nargs="+", help="trials at once (default 1 2 4 8; on a CPU 1 2)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each that are timed (default 3)")
    parser.add_argument("--cohort", type=Path, help="folder of a cohort to train on (default: the synthetic one)")
    parser.add_argument("--cache", type=Path, default=Path("results/.cache"), help="where cohorts are built, compiled")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    options = parser.parse_args(arguments)
    try:
        if options.epochs < 1 or min(options.at_once or [1]) < 1:
            raise InputError("--epochs, --at-once: give at least 1")
        size = (f"cohort.image_size={GPU_IMAGE_SIZE}",) if options.profile == "gpu" else ()
        spec = load_spec(options.space, Overrides(options.profile, (*size, *options.set)), has_gpu=True)
        _run(spec, options)
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def _run(spec: Spec, options: argparse.Namespace) -> None:
    device = "cpu" if spec.resources.gpus == 0 else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print(UNMEASURED)
        return
    pool, weight = memory_of_a_trial(spec, device, window_count(find_cohort(spec.cohort), spec.cohort))
    share = share_of(weight.peak_bytes, pool.total_bytes, pool.shares)
    fit = math.floor(1 / share)
    print(
        f"{pool.name}, {available_cores()} cores, {spec.resources.threads} threads a trial; {spec.cohort.image_size}x"
        f"{spec.cohort.image_size}, T {spec.training.T}, batch {spec.training.train.batch_size}, "
        f"{spec.epochs} epochs a trial"
    )
    takes = f"{weight.peak_bytes / 1e9:.2f} of {pool.total_bytes / 1e9:.1f} GB"
    print(f"a trial takes {takes}: memory is for {fit} at once")
    store = open_data(spec, options.cohort, options.cache).store
    rows = measure(spec, store, device, options.at_once or AT_ONCE[device], options.epochs)
    print("at once  s an epoch  trials/hour  x the first")
    for row in rows:
        figures = (f"{x:{form}}" if x else "-" for x, form in _columns(row))
        print("  ".join((f"{row.at_once:7d}", *figures)))
    if options.out:
        figures_out = {
            "pool": asdict(pool),
            "weight": asdict(weight),
            "memory_fits": fit,
            "settings": spec.training.model_dump(mode="json"),
            "image_size": spec.cohort.image_size,
            "rows": [asdict(row) for row in rows],
        }
        write_text_atomically(options.out, json.dumps(figures_out, indent=1) + "\n")


def _columns(row: Row) -> list[tuple[float | None, str]]:
    return [(row.epoch_s, "10.2f"), (row.trials_an_hour, "11.1f"), (row.gain, "11.2f")]


if __name__ == "__main__":
    sys.exit(main())
