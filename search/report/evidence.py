"""What a run's page is made from: the files of the run folder and its study, read once, as plain values."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from data_prep.common.errors import InputError, first_line
from lcnn.scoring.slices import KeptSlices, read_slices_of
from search.run.folder import RunFolder, read_environment
from search.spec.settings import Spec
from search.spec.space import Alternatives, Range, SearchSpace, Value
from search.study.ledger import Ledger, TrialRecord

WORDS = ("patient", "model", "distance_unit", "volume_unit")
"""Columns of patients.csv that hold words; the others hold figures."""


@dataclass(frozen=True)
class Label:
    """What every figure says of itself."""

    run: str
    cohort: str
    profile: str
    synthetic: bool


@dataclass(frozen=True)
class Parameter:
    """One searched parameter and where its values lie on an axis."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False
    """Whether only whole numbers are values."""
    choices: tuple[Value, ...] = ()
    """Not empty for a parameter of separate values; then ``low`` and ``high`` mean nothing."""
    conditional: bool = False
    """Whether only some trials have it."""

    def share(self, value: Value) -> float:
        """Position of a value between 0 and 1."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        assert isinstance(value, int | float)
        if self.low == self.high:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Span:
    """When a trial ran."""

    start: datetime
    end: datetime | None
    """None while it is unfinished."""


@dataclass(frozen=True)
class Patient:
    """One test patient under one model."""

    name: str
    figures: Mapping[str, float]
    """By column of patients.csv; an undefined figure is left out."""
    distance_unit: str
    volume_unit: str

    @property
    def has_lesion(self) -> bool:
        """Whether the truth holds a lesion."""
        return self.figures.get("true_volume", 0.0) > 0

    @property
    def failure(self) -> float:
        """Sorts failures first: Dice where there is a lesion, else 0 for a false alarm and 1 for none."""
        if self.has_lesion:
            return self.figures.get("dice", 0.0)
        return 0.0 if self.figures.get("predicted_volume", 0.0) > 0 else 1.0


@dataclass(frozen=True)
class Compared:
    """One metric of winner and defaults on the same patients."""

    difference: Mapping[str, Any]
    """Winner minus defaults, as `lcnn.scoring.intervals.Estimate` is stored."""
    p: float | None = None
    """Of a permutation test, after Holm's correction; None where none was made."""


@dataclass(frozen=True)
class ConfirmingTraining:
    """A row of confirm.csv."""

    trial: int
    seed: int
    outcome: str
    value: float | None
    """Best validation Dice."""


@dataclass(frozen=True)
class Provenance:
    """How the run was made."""

    spec: Spec
    sessions: tuple[Mapping[str, Any], ...]
    """Versions, machine, commit and command of every session."""
    parts: Mapping[str, int]
    """Patients of each part."""
    cohort_hash: str
    openings: tuple[str, ...]
    """A line for every time the test patients were read."""


@dataclass(frozen=True)
class Evidence:
    """Everything the page shows."""

    label: Label
    trials: tuple[TrialRecord, ...]
    spans: Mapping[int, Span]
    parameters: tuple[Parameter, ...]
    provenance: Provenance
    evaluation: Mapping[str, Any]
    """evaluation.json."""
    patients: tuple[Patient, ...] = ()
    """The winner's test patients, failures first."""
    confirming: tuple[ConfirmingTraining, ...] = ()
    slices: Path | None = None
    """Where slices of the test patients are kept, if they are."""

    @property
    def epochs(self) -> int:
        """The full budget of a trial, in steps: epochs, or folds where these are its fidelity."""
        return self.provenance.spec.steps

    @property
    def step(self) -> str:
        """What a trial's steps are called."""
        return self.provenance.spec.step_unit.removesuffix("s")

    @property
    def winner(self) -> TrialRecord | None:
        """The trial that won; None where the study does not hold it, as in an old copy."""
        return next((trial for trial in self.trials if trial.number == self.evaluation["winner"]), None)

    def model(self, role: str) -> Mapping[str, Any]:
        """Test figures of the winner or the defaults; empty where that was not tested."""
        found: Mapping[str, Any] = self.evaluation.get("models", {}).get(role, {})
        return found

    @property
    def compared(self) -> Mapping[str, Compared]:
        """Winner against defaults, by metric; empty where the defaults gave no model or won themselves."""
        return {
            one["metric"]: Compared(one["difference"], one["p_holm"])
            for one in self.evaluation.get("comparisons", ())
            if (one["ours"], one["theirs"]) == ("winner", "defaults")
        }

    def kept_slices(self) -> Iterator[KeptSlices]:
        """The kept slices of every test patient that has some, in the order of the patients.

        Raises:
            InputError: a file is damaged.
        """
        for patient in self.patients:
            if self.slices is not None and (file := self.slices / f"{patient.name}.png").exists():
                yield read_slices_of(file)


def read_evidence(run: RunFolder, ledger: Ledger, space: SearchSpace) -> Evidence:
    """Read what the run's page shows.

    Raises:
        InputError: the run is not finished, or one of its files is damaged.
    """
    spec = run.read_spec()
    if not run.evaluation.exists():
        raise InputError(f"{run.root}: not tested yet (no {run.evaluation.name}); let the search go on first")
    evaluation, split = _json(run.evaluation), _json(run.split)
    return Evidence(
        label=Label(
            run=run.root.resolve().name,
            cohort=evaluation["cohort"],
            profile=spec.profile or "none",
            synthetic=evaluation["synthetic"],
        ),
        trials=tuple(ledger.trials()),
        spans=_spans(ledger.study.get_trials(deepcopy=False)),
        parameters=tuple(_parameters(space)),
        provenance=Provenance(
            spec=spec,
            sessions=tuple(read_environment(run)),
            parts={part: len(split[part]) for part in ("train", "val", "test")},
            cohort_hash=split["cohort_hash"],
            openings=_lines(run.test_openings),
        ),
        evaluation=evaluation,
        patients=_patients(run.patients),
        confirming=_confirming(run.confirmation),
        slices=run.slices if run.slices.is_dir() else None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged ({first_line(error)}); restore it from a copy") from error
    return found


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()


def _rows(path: Path) -> Sequence[Mapping[str, str]]:
    if not path.exists():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _patients(path: Path) -> tuple[Patient, ...]:
    found = [
        Patient(
            name=row["patient"],
            figures={key: float(text) for key, text in row.items() if text and key not in WORDS},
            distance_unit=row.get("distance_unit", ""),
            volume_unit=row.get("volume_unit", ""),
        )
        for row in _rows(path)
        if row["model"] == "winner"
    ]
    return tuple(sorted(found, key=lambda patient: (patient.failure, patient.name)))


def _confirming(path: Path) -> tuple[ConfirmingTraining, ...]:
    return tuple(
        ConfirmingTraining(
            trial=int(row["trial"]),
            seed=int(row["seed"]),
            outcome=row["outcome"],
            value=float(row["best_val_dice"]) if row["best_val_dice"] else None,
        )
        for row in _rows(path)
    )


def _spans(trials: Sequence[FrozenTrial]) -> dict[int, Span]:
    return {
        trial.number: Span(
            _utc(trial.datetime_start), _utc(trial.datetime_complete) if trial.datetime_complete else None
        )
        for trial in trials
        if trial.datetime_start
    }


def _utc(local: datetime) -> datetime:
    """Optuna notes the time of the machine without its zone."""
    return local.astimezone(UTC)


def _parameters(space: SearchSpace) -> Iterator[Parameter]:
    for entry in space.entries.values():
        if isinstance(entry, Range):
            yield _parameter(entry, conditional=False)
        elif isinstance(entry, Alternatives):
            yield _parameter(entry.chooser, conditional=False)
            for option in entry.options.values():
                yield from (_parameter(searched, conditional=True) for _, searched in option.searched)


def _parameter(searched: Range, *, conditional: bool) -> Parameter:
    distribution = searched.distribution
    if isinstance(distribution, CategoricalDistribution):
        return Parameter(searched.name, choices=tuple(distribution.choices), conditional=conditional)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return Parameter(
        searched.name,
        float(distribution.low),
        float(distribution.high),
        log=distribution.log,
        whole=isinstance(distribution, IntDistribution),
        conditional=conditional,
    )
