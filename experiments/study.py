"""Networks compared: the same cohort, split, budget in seconds and seeds, paired by patient; what studies share.

Every contender goes through the same training: stacks, sampler, augmentation, loss, optimizer, one-cycle schedule. It
gets as many steps as it does in --seconds of processor time on one thread; what a step takes is measured once, all
contenders in turns, and kept in study.json. Each is trained on the training and validation patients with every seed
and tested on the test patients at their own pixel grid. The first contender is compared with each of the others,
patient by patient, on the mean over the seeds: the difference, its 95% patient-bootstrap interval, and the p of a
paired permutation test, corrected by Holm for the number of others. The same command goes on where it stopped;
trainings run side by side, one thread each.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from torch import nn

from data_prep.cohort.compiled import compile_cohort
from data_prep.cohort.layout import MANIFEST, Cohort
from data_prep.cohort.normalisation import training_normalisation
from data_prep.cohort.split import Split, SplitConfig, lock_split
from data_prep.cohort.store import Store
from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError
from data_prep.common.files import write_text_atomically
from data_prep.phantom.cohort import build_phantom_cohort
from data_prep.phantom.config import PhantomConfig
from data_prep.preprocessing.picture import PictureConfig
from experiments.networks import parameters
from lcnn.checkpoint import load_checkpoint
from lcnn.config import OneCycle, TrainConfig
from lcnn.dotted import assign
from lcnn.inference.model_file import TrainedModel
from lcnn.outcome import Outcome
from lcnn.scoring.comparison import compare_models
from lcnn.scoring.evaluate import evaluate
from lcnn.scoring.evaluation import write_patients
from lcnn.scoring.intervals import Estimate, estimate_mean
from lcnn.settings_file import validate
from lcnn.training.fit import Build, TrainingData, fit
from search.errors import RunFailed
from search.spec.settings import Overrides, Spec, load_spec

METRICS = ("dice", "surface_dice", "lesion_f1", "precision", "recall", "hd95")
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
class NetworkStudy:
    """What all trainings share."""

    folder: Path
    cohort: Cohort
    root: Path
    """Where the cohort's files lie."""
    stores: Mapping[PictureConfig, Store]
    """The cohort's slices, compiled for every kind of picture that a contender sees."""
    split: Split
    config: TrainConfig
    picture: PictureConfig

    def data(self, contender: "Contender") -> TrainingData:
        """All patients but the test patients; nothing is chosen by validation here."""
        store = self.stores[contender.picture(self.picture)]
        patients = (*self.split.train, *self.split.val)
        return TrainingData(store, patients, (), training_normalisation(store, self.split))

    def with_loop(self, **changes: Any) -> TrainConfig:
        """The configuration with some settings of the training loop replaced."""
        return self.config.model_copy(update={"train": self.config.train.model_copy(update=changes)})


@dataclass(frozen=True)
class Contender:
    """A network that takes part, and how it departs from the study's configuration."""

    name: str
    build: Build
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that are replaced, by their dotted names."""
    tested: Callable[[nn.Module], nn.Module] = lambda net: net
    """Makes the network that is tested from the one that was trained."""
    shown: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the picture that are replaced, by their names."""

    def picture(self, picture: PictureConfig) -> PictureConfig:
        """How slices are brought to this contender."""
        return PictureConfig.model_validate({**picture.model_dump(), **self.shown})

    def changes(self) -> dict[str, Any]:
        """All that is replaced, by dotted names."""
        return {**self.settings, **{f"picture.{name}": value for name, value in self.shown.items()}}

    def config(self, config: TrainConfig) -> TrainConfig:
        """The configuration with this contender's settings."""
        if not self.settings:
            return config
        data = config.model_dump()
        for key, value in self.settings.items():
            assign(data, key.split("."), value, self.name)
        return TrainConfig.model_validate(data)


@dataclass(frozen=True)
class Job:
    """One training with its test."""

    contender: Contender
    seed: int
    steps: int


def run_job(study: NetworkStudy, job: Job) -> Path:
    """Train and test, or take up what is there; the table of test patients.

    Raises:
        RunFailed: the training diverged or ran out of memory.
    """
    torch.set_num_threads(1)
    folder = study.folder / f"{job.contender.name}-{job.seed}"
    table = folder / "patients.csv"
    if table.exists():
        return table
    stacks = job.steps // EPOCHS * study.config.train.batch_size
    config = job.contender.config(study.with_loop(epochs=EPOCHS, stacks_per_epoch=stacks, seed=job.seed))
    data, build = study.data(job.contender), job.contender.build
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
    picture = job.contender.picture(study.picture)
    model = TrainedModel(job.contender.tested(net).eval(), config, picture, data.store.windows)
    results = evaluate(model, study.cohort, study.root, study.split.test)
    write_patients(table, {job.contender.name: results})
    return table


def step_seconds(study: NetworkStudy, contenders: Sequence[Contender]) -> dict[str, float]:
    """Processor seconds of a training step of each contender on one thread, taken in turns: median over the rounds.

    Processor time and not the clock's: what else the machine does must not change a budget.
    """
    torch.set_num_threads(1)
    config = study.with_loop(epochs=TIMED_ROUNDS + 1, stacks_per_epoch=TIMED_STEPS * study.config.train.batch_size)
    trainings = {c.name: fit(c.config(config), study.data(c), build=c.build) for c in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for _ in range(TIMED_ROUNDS + 1):
        for name, training in trainings.items():
            started = time.process_time()
            next(training)
            seconds[name].append((time.process_time() - started) / TIMED_STEPS)
    # The first round also loads pages and chooses kernels.
    return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def open_study(spec: Spec, root: Path, folder: Path, contenders: Sequence[Contender]) -> NetworkStudy:
    """Compile the cohort for all contenders and lock the study's split.

    Raises:
        InputError: no cohort, or another one than the folder's split is locked to.
    """
    picture = spec.cohort.picture
    config = spec.training.model_copy(
        update={
            "schedule": OneCycle(warmup=0.2),
            "optim": spec.training.optim.model_copy(update={"lr": LEARNING_RATE}),
        }
    )
    pictures = dict.fromkeys(contender.picture(picture) for contender in contenders)
    compiled = {shown: compile_cohort(root, CACHE, shown) for shown in pictures}
    first = next(iter(compiled.values()))
    split = lock_split(folder / "split.json", first.store, SPLIT)
    stores = {shown: cohort.store for shown, cohort in compiled.items()}
    return NetworkStudy(folder, first.cohort, first.root, stores, split, config, picture)


def plan(study: NetworkStudy, contenders: Sequence[Contender], seconds: float) -> dict[str, Any]:
    """Settings, sizes and steps of the study, kept in study.json: measured once, the same ever after.

    Raises:
        InputError: the folder holds a study with other settings.
    """
    path = study.folder / "study.json"
    asked = {
        "cohort": study.cohort.name,
        "synthetic": study.cohort.synthetic,
        "seconds": seconds,
        "contenders": {c.name: c.changes() for c in contenders},
        "picture": study.picture.model_dump(mode="json", exclude_none=True),
        "config": study.config.model_dump(mode="json"),
    }
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        # Read as settings, for an earlier version may have named options that are no more.
        picture = validate(PictureConfig, kept["picture"], f"{path}: picture")
        kept["picture"] = picture.model_dump(mode="json", exclude_none=True)
        other = [key for key, value in asked.items() if kept[key] != value]
        if other:
            raise InputError(f"{path}: holds a study with another {', '.join(other)}; choose another --out")
        return kept
    measured = step_seconds(study, contenders)
    least = EPOCHS * max(measured.values())
    if seconds < least:
        raise InputError(f"--seconds {seconds:g}: the slowest contender needs {least:.1f} for one step in each epoch")
    kept = {
        **asked,
        "parameters": {
            c.name: parameters(c.build(c.config(study.config), study.data(c).normalisation)) for c in contenders
        },
        "step_seconds": measured,
        "steps": {name: int(seconds / value) // EPOCHS * EPOCHS for name, value in measured.items()},
    }
    write_text_atomically(path, json.dumps(kept, indent=1) + "\n")
    return kept


def compare(tables: Sequence[tuple[Job, Path]]) -> dict[str, Any]:
    """Means over the patients, each patient's value a mean over the seeds, and the first compared with the others.

    Raises:
        InputError: a table was written by an earlier version and lacks figures.
    """
    rows = pd.concat([_read_table(path).assign(seed=job.seed) for job, path in tables])
    names = list(dict.fromkeys(job.contender.name for job, _ in tables))
    means = rows.groupby(["model", "patient"])[list(METRICS)].mean()
    persons = _persons(rows)
    figures = {name: {metric: means.loc[name][metric].sort_index().tolist() for metric in METRICS} for name in names}
    by_seed = rows.groupby(["model", "seed"])["dice"].mean()
    return {
        "first": names[0],
        "dice_by_seed": {name: by_seed.loc[name].round(4).to_dict() for name in names},
        "mean": {name: {m: asdict(estimate_mean(figures[name][m], persons)) for m in METRICS} for name in names},
        "comparisons": [asdict(comparison) for comparison in compare_models(figures, persons)],
    }


def _persons(rows: pd.DataFrame) -> list[int | str] | None:
    """Whose scan each patient is, in the order of their names; None where each is of a person of its own."""
    if "group" not in rows:
        return None
    groups = rows.groupby("patient")["group"].first().sort_index()
    return [patient if pd.isna(group) else int(group) for patient, group in groups.items()]


def _read_table(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    missing = [metric for metric in METRICS if metric not in table]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}: written by an earlier version; "
            "delete it and run the study again, which tests the trained network anew"
        )
    return table


def report(study: NetworkStudy, planned: dict[str, Any], summary: dict[str, Any], seeds: int) -> None:
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
    for found in summary["comparisons"]:
        if found["metric"] == "dice" and found["p_holm"] is not None:
            difference = Estimate(**found["difference"]).text()
            print(f"{found['ours']} - {found['theirs']:<20} Dice {difference}, p (Holm) = {found['p_holm']:.3f}")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all studies have."""
    options = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cohort", required=True, help="phantom (synthetic), or a folder with images/ and masks/")
    options.add_argument("--space", type=Path, default=Path("spaces/lcnn.yaml"))
    options.add_argument("--profile", default="cpu")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    options.add_argument("--seconds", type=float, default=200.0, help="processor time of one training (default 200)")
    options.add_argument("--seeds", type=int, default=3, help="trainings of each contender (default 3)")
    options.add_argument("--jobs", type=int, default=2, help="trainings side by side (default 2)")
    options.add_argument("--out", type=Path, help="folder (default results/<study>-<cohort>)")
    return options


@cli_errors
def run_study(kind: str, contenders: Sequence[Contender], options: argparse.Namespace) -> int:
    """Run a whole study and print what came out; the exit code.

    Args:
        kind: the study's name, for its folder.
        contenders: who takes part; all are compared with the first.
        options: as given by ``parser``.
    """
    try:
        if options.seconds <= 0 or options.seeds < 1 or options.jobs < 1:
            raise InputError("--seconds, --seeds and --jobs must be above 0")
        spec = load_spec(options.space, Overrides(options.profile, tuple(options.set)), has_gpu=False)
        root = CACHE / "phantom-study" if options.cohort == "phantom" else Path(options.cohort)
        if options.cohort == "phantom" and not (root / MANIFEST).exists():
            build_phantom_cohort(root, PHANTOM, options.jobs)
        study = open_study(spec, root, options.out or Path("results") / f"{kind}-{root.name}", contenders)
        planned = plan(study, contenders, options.seconds)
        jobs = [Job(c, seed, planned["steps"][c.name]) for seed in range(options.seeds) for c in contenders]
        tables = Parallel(n_jobs=options.jobs)(delayed(run_job)(study, job) for job in jobs)
        summary = compare(list(zip(jobs, tables, strict=True)))
        write_text_atomically(study.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        report(study, planned, summary, options.seeds)
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0
