"""The space file: one file is one search. Read, overridden by profile and command line, validated.

    file  <  profile  <  --set  <  --trials, --hours

Every section but ``search`` and ``profiles`` names fields of a settings class; the class holds the default.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from data_prep.errors import InputError, first_line
from data_prep.phantom import PhantomConfig
from data_prep.split import SplitConfig
from data_prep.store import Crop
from lcnn.config import Schedule, Settings, TrainConfig

SCHEDULES = tuple(option.model_fields["name"].default for option in get_args(get_args(Schedule)[0]))


class CohortConfig(Settings):
    """Which data, and how it is stored for training."""

    root: str = "data"
    """Folder with images/<patient>/ and masks/<patient>/; never written to."""
    fallback: Literal["phantom", "none"] = "none"
    """What to do where ``root`` holds no cohort: build the synthetic one beside it, or refuse."""
    phantom: PhantomConfig = PhantomConfig()
    """Settings of the synthetic cohort."""
    image_size: int = Field(512, ge=32, le=1024)
    """Side in pixels to which slices are resized."""
    crop: Crop = "head"
    """Crop to the head before resizing, or use the whole picture."""
    split: SplitConfig = SplitConfig()
    """Shares of the patients for training, validation and test, and the seed that draws them."""


class BudgetConfig(Settings):
    """When the search ends: whichever comes first."""

    trials: int = Field(64, ge=1)
    """Configurations to try, the defaults included."""
    hours: float | None = Field(None, gt=0)
    """Wall-clock hours of searching over all sittings, or no limit."""


class SamplerConfig(Settings):
    """Who proposes configurations."""

    name: Literal["tpe", "random"] = "tpe"
    startup: int = Field(12, ge=1)
    """Random trials before TPE starts to model."""
    seed: int = Field(0, ge=0)
    """Seed; every trial draws from its own stream, so a resumed search proposes what it would have."""


class SchedulerConfig(Settings):
    """Who stops trials early."""

    name: Literal["asha", "none"] = "asha"
    grace: int = Field(5, ge=1)
    """Epochs that every trial gets."""
    reduction: int = Field(3, ge=2)
    """One trial in this many goes on from each rung to the next."""


class ResourcesConfig(Settings):
    """How trials share the machine."""

    trials_at_once: int | None = Field(None, ge=1)
    """Trials running at the same time; None: as many as fit the GPUs, else the cores."""
    threads: int = Field(1, ge=1)
    """CPU threads of a trial; also reserves that many cores."""
    trials_per_gpu: int = Field(2, ge=1)
    """Trials that share one GPU."""


class Spec(TrainConfig):
    """A whole search, validated. Inherits the training settings that the search varies."""

    name: str = Field("search", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run folder."""
    profile: str | None = None
    """Name of the hardware profile that was applied."""
    cohort: CohortConfig = CohortConfig()
    search: dict[str, Any] = Field(default_factory=dict)
    """What the sampler may choose; see `search.space`."""
    budget: BudgetConfig = BudgetConfig()
    sampler: SamplerConfig = SamplerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @property
    def defaults(self) -> TrainConfig:
        """The file's own settings as a training configuration: trial 0."""
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields})


@dataclass(frozen=True)
class Overrides:
    """What the command line changes about a space file."""

    profile: str = "auto"
    settings: tuple[str, ...] = ()
    """``key=value`` texts, keys dotted, values YAML."""
    name: str | None = None
    trials: int | None = None
    hours: float | None = None


def load_spec(path: Path, overrides: Overrides, *, has_gpu: bool) -> Spec:
    """Read and validate a space file.

    Args:
        path: the YAML file.
        overrides: changes from the command line.
        has_gpu: decides what the profile ``auto`` means.

    Raises:
        InputError: one line with the file, the key, what is wrong and the remedy.
    """
    data = read_yaml(path)
    profiles = data.pop("profiles", None) or {}
    where = str(path)
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
    try:
        # Through JSON, so that lists become tuples while text is never taken for a number.
        spec = Spec.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise InputError(f"{where}: {describe(error, Spec)}") from error
    except TypeError as error:
        raise InputError(f"{where}: a value that YAML cannot mean here ({error}); quote it") from error
    if spec.scheduler.name != "none" and spec.scheduler.grace > spec.train.epochs:
        raise InputError(
            f"{where}: scheduler.grace: {spec.scheduler.grace} epochs is more than the "
            f"full budget train.epochs = {spec.train.epochs}; lower grace or raise epochs"
        )
    return spec


def command_line_changes(overrides: Overrides) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of the command line, in order of precedence."""
    for text in overrides.settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set {text}: expected key=value, for example --set train.epochs=20")
        key = key.strip()
        if key == "cohort.root":
            # Whoever names a folder means that folder: a typing error must not end in synthetic results.
            yield "cohort.fallback", "none"
        yield key, parse_yaml(value, f"--set {text}")
    for key, given in (
        ("name", overrides.name),
        ("budget.trials", overrides.trials),
        ("budget.hours", overrides.hours),
    ):
        if given is not None:
            yield key, given


def set_key(data: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    """Set a dotted key in nested mappings; below ``search`` the rest of the key is one name.

    ``search.<name>: null`` removes that range, so that the setting is fixed.

    Raises:
        InputError: the key passes through a value that is no section.
    """
    head, _, rest = dotted.partition(".")
    path = [head, rest] if head == "search" and rest else dotted.split(".")
    for position, part in enumerate(path[:-1]):
        section = data.setdefault(part, {})
        if section is None:
            section = data[part] = {}
        if not isinstance(section, dict):
            raise InputError(f"{where}: {dotted}: {'.'.join(path[: position + 1])} is a value, not a section")
        data = section
    if head == "search" and value is None:
        data.pop(path[-1], None)
    else:
        data[path[-1]] = value


def _pick_profile(profiles: Any, wanted: str, has_gpu: bool, where: str) -> str | None:
    if not isinstance(profiles, Mapping):
        raise InputError(f"{where}: profiles: expected a mapping of names to dotted keys")
    if wanted != "auto":
        if wanted not in profiles:
            raise InputError(f"{where}: no profile {wanted}; choose from auto, {', '.join(profiles) or '(none)'}")
        return wanted
    automatic = "gpu" if has_gpu else "cpu"
    return automatic if automatic in profiles else None


# --- YAML -----------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as people mean it: ``1e-3`` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text.

    Raises:
        InputError: with the line of the fault.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise InputError(f"{where}:{line} {error.problem}; mend the YAML") from error
    except yaml.YAMLError as error:
        raise InputError(f"{where}: {first_line(error)}; mend the YAML") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        InputError: missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; give the path of a space file, for example spaces/lcnn.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; give the path of a space file") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of sections, found {type(data).__name__}")
    return data


# --- What is wrong, in one line ---------------------------------------------------------------------------


def describe(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first fault of a validation as ``key: what; remedy``, and how many more there are."""
    faults = error.errors(include_url=False)
    first = faults[0]
    key = prefix + ".".join(str(part) for part in first["loc"] if not _is_union_tag(part, first["loc"]))
    if first["type"] == "extra_forbidden":
        text = f"{key}: unknown key; {_nearest(key.removeprefix(prefix), model)}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        shown = json.dumps(first["input"], default=str)
        text = f"{key}: {message[0].lower()}{message[1:]}"
        if len(shown) <= 60 and first["type"] not in ("missing", "value_error"):
            text += f" (given: {shown})"
    return text + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _is_union_tag(part: object, loc: tuple[int | str, ...]) -> bool:
    """Whether pydantic put the chosen schedule's name between the field and its setting."""
    return loc[0] == "schedule" and part in SCHEDULES


def _nearest(key: str, model: type[BaseModel]) -> str:
    known = list(known_keys(model))
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    if not close:
        leaf = key.rsplit(".", 1)[-1]
        close = [name for name in known if name.rsplit(".", 1)[-1] == leaf][:1]
    return f"did you mean {close[0]}?" if close else f"known keys: {', '.join(model.model_fields)}"


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, sections included."""
    for name, info in model.model_fields.items():
        yield prefix + name
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from known_keys(kind, f"{prefix}{name}.")
        else:
            for option in getattr(kind, "__args__", ()):
                if isinstance(option, type) and issubclass(option, BaseModel):
                    yield from known_keys(option, f"{prefix}{name}.")
