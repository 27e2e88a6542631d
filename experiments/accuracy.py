"""LCNN against MONAI's U-Net and Attention U-Net: the same cohort, split, budget in seconds and seeds.

    python -m experiments.accuracy --cohort phantom                        synthetic, 96 pixels
    python -m experiments.accuracy --cohort FOLDER --profile cpu_real      your own slices, 160 pixels

Every network has about as many parameters as LCNN and goes through the same training: stacks, sampler, augmentation,
loss, optimizer, one-cycle schedule. It gets as many steps as it does in --seconds of processor time on one thread;
what a step takes is measured once, all networks in turns, and kept in study.json. Each is trained on the training and
validation patients with every seed and tested on the test patients at their own pixel grid. Networks are compared
patient by patient on the mean over the seeds: the difference and its 95% patient-bootstrap interval. The same command
goes on where it stopped; trainings run side by side, one thread each.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from data_prep.cohort import MANIFEST
from data_prep.compiled import CompiledCohort, compile_cohort
from data_prep.errors import InputError
from data_prep.files import write_text_atomically
from data_prep.phantom import PhantomConfig
from data_prep.phantom_cohort import build_phantom_cohort
from data_prep.split import Split, SplitConfig, lock_split, training_normalisation
from experiments.networks import network, parameters
from lcnn.checkpoint import load_checkpoint
from lcnn.config import OneCycle, PictureConfig, TrainConfig
from lcnn.evaluate import evaluate
from lcnn.evaluation import write_patients
from lcnn.fit import TrainingData, fit
from lcnn.intervals import Estimate, estimate_difference, estimate_mean
from lcnn.model_file import TrainedModel
from lcnn.outcome import Outcome
from search.errors import RunFailed
from search.spec import Overrides, Spec, load_spec

NETWORKS = ("lcnn", "unet", "attention_unet")
METRICS = ("dice", "precision", "recall", "hd95")
LEARNING_RATE = 2e-3
EPOCHS = 20
"""Pieces into which a training is cut; after each it is kept on disk."""
SPLIT = SplitConfig(train=0.5, val=0.1, test=0.4)
"""Many test patients: the study compares networks, it does not make the best one."""
PHANTOM = PhantomConfig(patients=100, pixel_mm=2.0)
TIMED_ROUNDS = 5
TIMED_STEPS = 8
CACHE = Path("results/.cache")


@dataclass(frozen=True)
class Study:
    """What all trainings share."""

    folder: Path
    cohort: CompiledCohort
    split: Split
    config: TrainConfig
    picture: PictureConfig

    def data(self) -> TrainingData:
        """All patients but the test patients; nothing is chosen by validation here."""
        patients = (*self.split.train, *self.split.val)
        return TrainingData(self.cohort.store, patients, (), training_normalisation(self.cohort.store, self.split))

    def with_loop(self, **changes: Any) -> TrainConfig:
        """The configuration with some settings of the training loop replaced."""
        return self.config.model_copy(update={"train": self.config.train.model_copy(update=changes)})


@dataclass(frozen=True)
class Job:
    """One training with its test."""

    network: str
    seed: int
    steps: int


def run_job(study: Study, job: Job) -> Path:
    """Train and test, or take up what is there; the table of test patients.

    Raises:
        RunFailed: the training diverged or ran out of memory.
    """
    torch.set_num_threads(1)
    folder = study.folder / f"{job.network}-{job.seed}"
    table = folder / "patients.csv"
    if table.exists():
        return table
    stacks = job.steps // EPOCHS * study.config.train.batch_size
    config = study.with_loop(epochs=EPOCHS, stacks_per_epoch=stacks, seed=job.seed)
    data, build = study.data(), network(job.network)
    training = fit(config, data, folder=folder, build=build)
    while True:
        try:
            next(training)
        except StopIteration as end:
            if end.value is not Outcome.COMPLETED:
                raise RunFailed(f"{folder}: the training ended {end.value}; see {folder / 'history.csv'}") from None
            break
    net = build(config, data.normalisation)
    net.load_state_dict(load_checkpoint(folder / "last.pt")["model"])
    model = TrainedModel(net.eval(), config, study.picture)
    results = evaluate(model, study.cohort.cohort, study.cohort.root, study.split.test)
    write_patients(table, {job.network: results})
    return table


def step_seconds(study: Study, names: Sequence[str]) -> dict[str, float]:
    """Processor seconds of a training step of each network on one thread, taken in turns: median over the rounds.

    Processor time and not the clock's: what else the machine does must not change a budget.
    """
    torch.set_num_threads(1)
    config = study.with_loop(epochs=TIMED_ROUNDS + 1, stacks_per_epoch=TIMED_STEPS * study.config.train.batch_size)
    trainings = {name: fit(config, study.data(), build=network(name)) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(TIMED_ROUNDS + 1):
        for name, training in trainings.items():
            started = time.process_time()
            next(training)
            seconds[name].append((time.process_time() - started) / TIMED_STEPS)
    # The first round also loads pages and chooses kernels.
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def open_study(spec: Spec, root: Path, folder: Path) -> Study:
    """Compile the cohort and lock the study's split.

    Raises:
        InputError: no cohort, or another one than the folder's split is locked to.
    """
    picture = PictureConfig(image_size=spec.cohort.image_size, crop=spec.cohort.crop)
    cohort = compile_cohort(root, CACHE, image_size=picture.image_size, crop=picture.crop)
    config = spec.defaults.model_copy(
        update={
            "schedule": OneCycle(warmup=0.2),
            "optim": spec.defaults.optim.model_copy(update={"lr": LEARNING_RATE}),
        }
    )
    return Study(folder, cohort, lock_split(folder / "split.json", cohort.store, SPLIT), config, picture)


def plan(study: Study, names: Sequence[str], seconds: float) -> dict[str, Any]:
    """Settings, sizes and steps of the study, kept in study.json: measured once, the same ever after.

    Raises:
        InputError: the folder holds a study with other settings.
    """
    path = study.folder / "study.json"
    asked = {
        "cohort": study.cohort.cohort.name,
        "synthetic": study.cohort.cohort.synthetic,
        "seconds": seconds,
        "networks": list(names),
        "picture": study.picture.model_dump(mode="json"),
        "config": study.config.model_dump(mode="json"),
    }
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key, value in asked.items() if kept[key] != value]
        if other:
            raise InputError(f"{path}: holds a study with another {', '.join(other)}; choose another --out")
        return kept
    normalisation = study.data().normalisation
    measured = step_seconds(study, names)
    least = EPOCHS * max(measured.values())
    if seconds < least:
        raise InputError(f"--seconds {seconds:g}: the slowest network needs {least:.1f} for one step in each epoch")
    kept = {
        **asked,
        "parameters": {name: parameters(network(name)(study.config, normalisation)) for name in names},
        "step_seconds": measured,
        "steps": {name: int(seconds / value) // EPOCHS * EPOCHS for name, value in measured.items()},
    }
    write_text_atomically(path, json.dumps(kept, indent=1) + "\n")
    return kept


def compare(tables: Sequence[tuple[Job, Path]], names: Sequence[str]) -> dict[str, Any]:
    """Means over the patients, each patient's value a mean over the seeds, and LCNN's paired differences."""
    rows = pd.concat([pd.read_csv(path).assign(seed=job.seed) for job, path in tables])
    means = rows.groupby(["model", "patient"])[list(METRICS)].mean()
    columns = {(name, metric): means.loc[name][metric].sort_index().tolist() for name in names for metric in METRICS}
    by_seed = rows.groupby(["model", "seed"])["dice"].mean()
    return {
        "dice_by_seed": {name: by_seed.loc[name].round(4).to_dict() for name in names},
        "mean": {name: {m: vars(estimate_mean(columns[name, m])) for m in METRICS} for name in names},
        "lcnn_minus": {
            name: {m: vars(estimate_difference(columns["lcnn", m], columns[name, m])) for m in METRICS}
            for name in names
            if name != "lcnn"
        },
    }


def report(study: Study, planned: dict[str, Any], summary: dict[str, Any], seeds: int) -> None:
    """Print what came out."""
    print(
        f"{planned['cohort']}: {len(study.split.test)} test patients, {seeds} seeds, "
        f"{planned['seconds']:g} s of one thread a training, {study.picture.image_size} pixels"
    )
    for name, metrics in summary["mean"].items():
        print(
            f"{name:<15} {planned['parameters'][name] / 1e3:.0f} k parameters, {planned['steps'][name]} steps; "
            + ", ".join(f"{metric} {Estimate(**metrics[metric]).text()}" for metric in METRICS)
        )
    for name, metrics in summary["lcnn_minus"].items():
        print(f"lcnn - {name:<15} Dice {Estimate(**metrics['dice']).text()}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", required=True, help="phantom, or a folder with images/ and masks/")
    parser.add_argument("--space", type=Path, default=Path("spaces/lcnn.yaml"))
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--seconds", type=float, default=200.0, help="processor time of one training (default 200)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each network (default 3)")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side (default 2)")
    parser.add_argument("--out", type=Path, help="folder (default results/accuracy-<cohort>)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """The whole study.

    Raises:
        InputError: bad settings or cohort.
        RunFailed: a training ended without a model.
    """
    if options.seconds <= 0 or options.seeds < 1 or options.jobs < 1:
        raise InputError("--seconds, --seeds and --jobs must be above 0")
    spec = load_spec(options.space, Overrides(options.profile, tuple(options.set)), has_gpu=False)
    root = CACHE / "phantom-study" if options.cohort == "phantom" else Path(options.cohort)
    if options.cohort == "phantom" and not (root / MANIFEST).exists():
        build_phantom_cohort(root, PHANTOM, options.jobs)
    study = open_study(spec, root, options.out or Path("results") / f"accuracy-{root.name}")
    planned = plan(study, options.networks, options.seconds)
    jobs = [Job(name, seed, planned["steps"][name]) for seed in range(options.seeds) for name in options.networks]
    tables = Parallel(n_jobs=options.jobs)(delayed(run_job)(study, job) for job in jobs)
    summary = compare(list(zip(jobs, tables, strict=True)), options.networks)
    write_text_atomically(study.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    report(study, planned, summary, options.seeds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; the exit code."""
    try:
        run(parse(arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
