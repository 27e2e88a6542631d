"""The space file: one file is one search. Read, overridden by profile and command line, validated.

    file  <  profile  <  --set  <  --trials, --hours

Every section but ``search`` and ``profiles`` names fields of a settings class; the class holds the default.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from data_prep.cohort.split import SplitConfig
from data_prep.common.errors import InputError
from data_prep.phantom.config import PhantomConfig
from data_prep.preprocessing.picture import PictureConfig
from lcnn.config import FORMATS, Format, HoldsTraining, Settings
from lcnn.dotted import assign
from lcnn.settings_file import parse_assignment, read_yaml, validate
from search.spec.shipped import find_space
from search.spec.space import SearchSpace


class CohortConfig(PictureConfig):
    """Which data, and how it is stored for training."""

    root: str = "data"
    """Folder with images/<patient>/ and masks/<patient>/; never written to."""
    fallback: Literal["phantom", "none"] = "none"
    """What to do where ``root`` holds no cohort: build the synthetic one beside it, or refuse."""
    phantom: PhantomConfig = PhantomConfig()
    """Settings of the synthetic cohort."""
    split: SplitConfig = SplitConfig()
    """Shares of the patients for training, validation and test, and the seed that draws them."""

    @property
    def picture(self) -> PictureConfig:
        """How slices are brought to the network, alone."""
        return PictureConfig(**{name: getattr(self, name) for name in PictureConfig.model_fields})


class BudgetConfig(Settings):
    """When the search ends: whichever comes first."""

    trials: int | None = Field(64, ge=1)
    """Configurations to try, the defaults included, or no limit."""
    epochs: int | None = Field(None, ge=1)
    """Steps of all trials, or no limit: epochs, whether on one fold or several at once; folds where these are steps."""
    hours: float | None = Field(None, gt=0)
    """Wall-clock hours of searching over all sessions, or no limit."""
    gpu_hours: float | None = Field(None, gt=0)
    """Hours of training, each weighted with the trial's share of a GPU, or no limit."""
    target: float | None = Field(None, gt=0, le=1)
    """Validation Dice at which the search is content, or no target."""
    plateau: int | None = Field(None, ge=1)
    """Trials in a row that may end without a new best before the search ends, or no limit."""


class ObjectiveConfig(Settings):
    """What a trial is judged by."""

    cost: Literal["none", "seconds", "memory"] = "none"
    """The second objective beside validation Dice: nothing, training time an epoch, or peak memory of a training."""


class SamplerConfig(Settings):
    """Who proposes configurations."""

    name: Literal["tpe", "random", "cmaes", "gp", "grid"] = "tpe"
    """Tree-structured Parzen estimator, random search, CMA-ES, Gaussian process, or every point of a grid."""
    startup: int = Field(12, ge=1)
    """Random trials before tpe, cmaes or gp start to model."""
    points: int = Field(3, ge=2)
    """Values that a grid takes of a range of real numbers, its ends included."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed; every trial draws from its own stream, so a resumed search proposes what it would have."""


class SchedulerConfig(Settings):
    """Who stops trials early."""

    name: Literal["asha", "hyperband", "median", "none"] = "asha"
    """Successive halving, several brackets of it, the median rule, or no early stopping."""
    grace: int = Field(5, ge=1)
    """Epochs that every trial gets."""
    reduction: int = Field(3, ge=2)
    """One trial in this many goes on from each rung to the next; the median rule has no use for it."""


class FoldsConfig(Settings):
    """Whether a trial is measured on several folds of the patients, in place of the one validation part."""

    count: int = Field(0, ge=0)
    """Folds over training and validation patients; 0: none."""
    use: Literal["repeats", "fidelity"] = "repeats"
    """All folds epoch by epoch, or one whole fold after the other: then a trial's steps, rungs and grace are folds."""


class ConfirmConfig(Settings):
    """Trainings that decide between the best trials before a winner is named."""

    top: int = Field(3, ge=0)
    """Best trials to confirm, beside the defaults; 0: the best trial wins unconfirmed."""
    seeds: int = Field(3, ge=1)
    """Trainings of each, with different seeds, at the full budget."""


class StorageConfig(Settings):
    """Where a run that outgrows one machine keeps its truth."""

    study: str | None = None
    """URL of the study's database, such as postgresql://user@host/db; None: study.db in the run folder."""
    checkpoints: str | None = None
    """Folder or URL, as pyarrow reads it, that all nodes share; None: the run folder."""


class ResourcesConfig(Settings):
    """How trials share the machine."""

    trials_at_once: int | None = Field(None, ge=1)
    """Trials running at the same time; None: as many as fit the GPUs, else the cores."""
    threads: int = Field(1, ge=1)
    """CPU threads of a trial; also reserves that many cores."""
    trials_per_gpu: int | None = Field(None, ge=1)
    """Trials that share one GPU; None: as many as their measured memory allows."""
    gpus: int | None = Field(None, ge=0)
    """GPUs to use; None: all there are, 0: train on the CPU."""


class Spec(HoldsTraining):
    """A whole search, validated; its training is trial 0, the defaults."""

    name: str = "search"
    """Names the run folder: letters, digits, dots, hyphens and underscores, the first a letter or digit."""
    profile: str | None = None
    """Name of the hardware profile that was applied."""
    cohort: CohortConfig = CohortConfig()
    search: dict[str, Any] = Field(default_factory=dict)
    """What the sampler may choose; see `search.spec.space`."""
    objective: ObjectiveConfig = ObjectiveConfig()
    budget: BudgetConfig = BudgetConfig()
    sampler: SamplerConfig = SamplerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    folds: FoldsConfig = FoldsConfig()
    confirm: ConfirmConfig = ConfirmConfig()
    storage: StorageConfig = StorageConfig()
    resources: ResourcesConfig = ResourcesConfig()
    exports: tuple[Format, ...] = FORMATS
    """Graphs that the winner is exported to, beside its weights and its MONAI bundle."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("is no name of a run; write letters, digits, dots, hyphens and underscores, like lcnn-t2")
        return name

    @property
    def epochs(self) -> int:
        """Epochs of a whole training."""
        return self.training.train.epochs

    @property
    def step_unit(self) -> Literal["epochs", "folds"]:
        """What the steps of a trial are."""
        return "folds" if self.folds.count and self.folds.use == "fidelity" else "epochs"

    @property
    def steps(self) -> int:
        """Results that a whole trial gives: its epochs, or its folds where these are its fidelity."""
        return self.folds.count if self.step_unit == "folds" else self.epochs

    def space(self, where: Path | str) -> SearchSpace:
        """The searched ranges over the defaults.

        Args:
            where: names the file in messages.

        Raises:
            InputError: a range that is wrong; see `SearchSpace`.
        """
        return SearchSpace(self.search, self.training, str(where))


@dataclass(frozen=True)
class Overrides:
    """What the command line changes about a space file."""

    profile: str = "auto"
    settings: tuple[str, ...] = ()
    """``key=value`` texts, keys dotted, values YAML."""
    name: str | None = None
    trials: int | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Extension:
    """What a finished run gets on top of what it has used."""

    trials: int = 0
    hours: float = 0.0
    limits: tuple[str, ...] = ()
    """Fields of the budget that the command line sets beside it, in place of those that the run has."""

    def __bool__(self) -> bool:
        return bool(self.trials or self.hours)


def load_spec(path: Path, overrides: Overrides, *, has_gpu: bool) -> Spec:
    """Read and validate a space file.

    Args:
        path: the YAML file, or the name of a shipped one; see `search.spec.shipped.find_space`.
        overrides: changes from the command line.
        has_gpu: decides what the profile ``auto`` means.

    Raises:
        InputError: one line with the file, the key, what is wrong and the remedy.
    """
    path = find_space(path)
    data = read_yaml(path)
    profiles = data.pop("profiles", None) or {}
    where = str(path)
    if "profile" in data:
        raise InputError(f"{where}: profile: chosen with --profile, not in the file; remove it")
    profile = _pick_profile(profiles, overrides.profile, has_gpu, where)
    if profile:
        changes = profiles[profile]
        if not isinstance(changes, Mapping):
            raise InputError(f"{where}: profiles.{profile}: expected a mapping of dotted keys to values")
        for key, value in changes.items():
            set_key(data, str(key), value, f"{where}: profiles.{profile}")
        data["profile"] = profile
    for key, value in command_line_changes(overrides):
        set_key(data, key, value, "command line")
        where = f"{path} with --set"
    return validate_spec(data, where)


def validate_spec(data: Mapping[str, Any], where: str) -> Spec:
    """Build the spec and check what no single field can see.

    Raises:
        InputError: as `load_spec`.
    """
    spec = validate(Spec, data, where)
    if spec.scheduler.name != "none" and spec.scheduler.grace > spec.steps:
        key = {"epochs": "train.epochs", "folds": "folds.count"}[spec.step_unit]
        raise InputError(
            f"{where}: scheduler.grace: {spec.scheduler.grace} {spec.step_unit} is more than the "
            f"full budget {key} = {spec.steps}; lower grace or raise {spec.step_unit}"
        )
    if not any(getattr(spec.budget, limit) for limit in ("trials", "epochs", "hours", "gpu_hours", "plateau")):
        raise InputError(f"{where}: budget: nothing ends the search; set budget.trials, hours, epochs or plateau")
    if spec.folds.count == 1:
        raise InputError(f"{where}: folds.count: one fold leaves nobody to train; choose 2 or more, or 0 for none")
    if spec.step_unit == "folds" and not spec.confirm.top:
        raise InputError(
            f"{where}: confirm.top: with folds.use = fidelity the epochs of the final training come from the "
            "confirmation; set it to 1 or more"
        )
    if spec.objective.cost != "none" and spec.sampler.name == "cmaes":
        raise InputError(
            f"{where}: sampler.name: cmaes proposes for one objective, and objective.cost = {spec.objective.cost} "
            "makes two; choose tpe, gp, random or grid, or cost: none"
        )
    if spec.objective.cost == "memory" and spec.resources.trials_per_gpu:
        raise InputError(
            f"{where}: resources.trials_per_gpu: a fixed number a GPU leaves memory unmeasured, which "
            "objective.cost = memory needs; remove one of the two"
        )
    return spec


def command_line_changes(overrides: Overrides) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of the command line, in order of precedence."""
    for text in overrides.settings:
        key, value = parse_assignment(text)
        yield key, value
    for key, given in (
        ("name", overrides.name),
        ("budget.trials", overrides.trials),
        ("budget.hours", overrides.hours),
    ):
        if given is not None:
            yield key, given


def command_line_limits(overrides: Overrides) -> tuple[str, ...]:
    """Fields of the budget that the command line sets."""
    data: dict[str, Any] = {}
    for key, value in command_line_changes(overrides):
        if key.split(".")[0] == "budget":
            set_key(data, key, value, "command line")
    return tuple(data.get("budget", ()))


def set_key(data: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    """Set a dotted key in nested mappings; below ``search`` the rest of the key is one name.

    ``search.<name>: null`` removes that range, so that the setting is fixed.

    Raises:
        InputError: the key passes through a value that is no section.
    """
    head, _, rest = dotted.partition(".")
    if head in ("profile", "profiles"):
        raise InputError(f"{where}: {dotted}: the profile is chosen with --profile, not by a setting")
    if head == "search" and rest:
        if value is None and rest not in (data.get(head) or {}):
            raise InputError(f"{where}: {dotted}: no such range; searched are {', '.join(data.get(head) or ['none'])}")
        assign(data, [head, rest], value, where)
        if value is None:
            del data[head][rest]
    else:
        assign(data, dotted.split("."), value, where)


def _pick_profile(profiles: Any, wanted: str, has_gpu: bool, where: str) -> str | None:
    if not isinstance(profiles, Mapping):
        raise InputError(f"{where}: profiles: expected a mapping of names to dotted keys")
    if wanted != "auto":
        if wanted not in profiles:
            raise InputError(f"{where}: no profile {wanted}; choose from auto, {', '.join(profiles) or '(none)'}")
        return wanted
    automatic = "gpu" if has_gpu else "cpu"
    return automatic if automatic in profiles else None
