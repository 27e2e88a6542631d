"""What a search cost and what it had found, trial after trial; of our runs and of W&B sweeps by our agents."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from data_prep.cohort.split import read_split
from data_prep.common.errors import InputError, first_line
from lcnn.outcome import Outcome
from search.commands.wandb_agent import RECORD
from search.run.evaluation import read_evaluation
from search.run.folder import RESUMABLE_KEYS, RunFolder
from search.run.prepare import is_synthetic
from search.run.study import open_ledger
from search.spec.settings import Spec
from search.spec.space import SearchSpace
from search.study.ledger import TrialRecord

AXES = ("trials", "epochs", "seconds")
"""Measures of effort. Seconds are those of training, summed over trials: more trials at once look no faster."""
SEEDS = (("sampler", "seed"), ("train", "seed"))
"""Settings in which repetitions of one search differ."""
NO_PART_OF_A_SEARCH = {"name", "storage", *RESUMABLE_KEYS}


@dataclass(frozen=True)
class End:
    """A trial that ended."""

    epochs: int
    seconds: float
    best: float | None
    """Best validation Dice; None where the trial gave no value to go by."""


@dataclass(frozen=True)
class SearchRecord:
    """One search, or as much as there is of it."""

    name: str
    ends: tuple[End, ...]
    """Trials in the order in which they ended."""
    conditions: Mapping[str, Any]
    """What must be equal in searches that are compared."""
    method: str
    """The search with its conditions, without its name and seeds: equal in repetitions of it."""
    seeds: tuple[int, ...] | None
    """Its seeds; None for a W&B sweep, which W&B draws from no seed of ours."""
    synthetic: bool | None

    def effort(self, axis: str) -> list[float]:
        """Effort spent when each trial had ended, in order."""
        spent, total = [], 0.0
        for end in self.ends:
            total += {"trials": 1.0, "epochs": float(end.epochs), "seconds": end.seconds}[axis]
            spent.append(total)
        return spent

    def best_after(self, axis: str, effort: float) -> float:
        """Best validation Dice of the trials that had ended after so much effort.

        NaN before the first value, and beyond the effort that was spent: what more of it had brought, nobody knows.
        """
        spent = self.effort(axis)
        if effort > spent[-1]:
            return math.nan
        values = [end.best for end, at in zip(self.ends, spent, strict=True) if at <= effort and end.best is not None]
        return max(values, default=math.nan)


def read_search(folder: Path) -> SearchRecord:
    """Read a run folder.

    Raises:
        InputError: no run, a damaged one, or one in which no trial has ended.
    """
    run = RunFolder(folder)
    spec = run.read_spec()
    is_sweep = not run.study.exists() and spec.storage.study is None
    ends = _ends_of_sweep(run) if is_sweep else _ends_of_study(run, spec)
    if not ends:
        raise InputError(f"{folder}: no trial has ended yet; let the search go on first")
    split = read_split(run.split)
    conditions = {
        "cohort": split.cohort_hash[:12],
        "split": {part: list(getattr(split, part)) for part in ("train", "val", "test")},
        "profile": spec.profile,
        "image size": spec.cohort.image_size,
        "epochs": spec.epochs,
        "folds": [spec.folds.count, spec.folds.use] if spec.folds.count else None,
    }
    synthetic = read_evaluation(run)["synthetic"] if run.evaluation.exists() else is_synthetic(spec.cohort)
    method = json.dumps([is_sweep, _without_seeds(spec), conditions], sort_keys=True)
    seeds = None if is_sweep else (spec.sampler.seed, spec.training.train.seed)
    return SearchRecord(folder.resolve().name, tuple(ends), conditions, method, seeds, synthetic)


def differences(records: Sequence[SearchRecord]) -> list[str]:
    """In which conditions the searches differ, with the first that differs from the first search; a text each."""
    first = records[0]
    texts = []
    for key, value in first.conditions.items():
        other = next((record for record in records if record.conditions[key] != value), None)
        if other is not None:
            # The patients of a split would fill pages.
            shown = "other patients" if key == "split" else f"{value} and {other.conditions[key]}"
            texts.append(f"{key}: {shown} in {first.name} and {other.name}")
    return texts


def repeated_seeds(records: Sequence[SearchRecord]) -> tuple[str, str] | None:
    """Names of two searches that are one: all settings and seeds are equal; None where there are none."""
    seen: dict[tuple[str, tuple[int, ...]], str] = {}
    for record in records:
        if record.seeds is None:
            continue
        before = seen.setdefault((record.method, record.seeds), record.name)
        if before != record.name:
            return before, record.name
    return None


def _ends_of_study(run: RunFolder, spec: Spec) -> list[End]:
    ledger = open_ledger(run, spec, SearchSpace(spec.search, spec.training, str(run.spec)))
    ended = {trial.number: trial.datetime_complete for trial in ledger.study.get_trials(deepcopy=False)}
    # A crash is the machine's fault, and no part of the search.
    counted = [t for t in ledger.trials() if t.outcome not in (None, Outcome.CRASHED)]
    return [_end(trial) for trial in sorted(counted, key=lambda t: ended[t.number] or datetime.max)]


def _end(trial: TrialRecord) -> End:
    return End(len(trial.curve), trial.seconds, trial.best if trial.is_usable else None)


def _ends_of_sweep(run: RunFolder) -> list[End]:
    """Trials of a sweep, in the order in which they ended."""
    return [
        end for _, end in sorted((_told(path) for path in run.trials.glob(f"*/{RECORD}")), key=lambda told: told[0])
    ]


def _told(path: Path) -> tuple[str, End]:
    """When a sweep's trial was last heard of, and what it was; without an outcome it was stopped by W&B or a kill."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        outcome = Outcome(record["outcome"]) if record["outcome"] else Outcome.PRUNED
        curve = [float(value) for value in record["curve"]]
        is_usable = outcome in (Outcome.COMPLETED, Outcome.PRUNED) and curve
        return str(record["told"]), End(len(curve), float(record["seconds"]), max(curve) if is_usable else None)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged ({first_line(error)}); delete it") from error


def _without_seeds(spec: Spec) -> dict[str, Any]:
    """The settings that repetitions of a search share."""
    values = spec.model_dump(mode="json", exclude=NO_PART_OF_A_SEARCH)
    for section, key in SEEDS:
        del values[section][key]
    return values
