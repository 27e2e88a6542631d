"""The locked split: which patients train, which validate, which are kept for the final test.

Patients that are scans of one person are in one part, all of them. Made once from a seed, written beside the run with
the cohort's hash and a seal over all of it, and refused if the cohort, its groups or the file changed.
"""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from data_prep.cohort.groups import in_words
from data_prep.cohort.layout import MANIFEST
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import write_text_atomically

if TYPE_CHECKING:  # which pictures a split is of, its settings need not wait for
    from data_prep.cohort.store import Store

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


class SplitConfig(BaseModel):
    """Shares of the patients, and the seed that draws them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: float = Field(0.7, gt=0, lt=1)
    """Share that trains."""
    val: float = Field(0.15, gt=0, lt=1)
    """Share that validates: trials are judged by it."""
    test: float = Field(0.15, gt=0, lt=1)
    """Share that is tested once, at the end; the three add up to 1."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the draw."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> "SplitConfig":
        total = self.train + self.val + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"train + val + test is {total:g}; the shares must add up to 1")
        return self


class Split(BaseModel):
    """The patients of each part, locked to a cohort by its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    cohort_hash: str
    seed: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()
    """Patients that are scans of one person, a tuple a person; those of one scan are in none."""

    @model_validator(mode="after")
    def _parts_are_disjoint(self) -> "Split":
        everyone = (*self.train, *self.val, *self.test)
        if len(set(everyone)) != len(everyone):
            raise ValueError("a patient is in more than one part")
        for group in self.groups:
            if not any({*group} <= {*getattr(self, part)} for part in PARTS):
                raise ValueError(f"{' and '.join(group[:2])} are scans of one person, and not in one part")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_groups(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """So that a split of a cohort without groups, and its seal, stay what they were before there were any."""
        content: dict[str, Any] = dump(self)
        if not content.get("groups", True):
            del content["groups"]
        return content

    def size(self, part: Part) -> str:
        """How many patients a part has, and how many scans where some have several, in words."""
        return in_words(self._persons(part))

    def patient_count(self, part: Part) -> int:
        """Number of persons in a part, whatever the number of their scans."""
        return len(set(self._persons(part)))

    def _persons(self, part: Part) -> list[str]:
        first = {scan: group[0] for group in self.groups for scan in group}
        return [first.get(scan, scan) for scan in getattr(self, part)]


class Scans(Protocol):
    """What a split is drawn from: who is there, whose scans they are, and how large their lesions; see `Store`."""

    @property
    def cohort_hash(self) -> str:
        """Hash of the cohort."""
        ...

    @property
    def official_test(self) -> Sequence[str]:
        """Patients that are to be tested, if the cohort names some."""
        ...

    @property
    def patients(self) -> Collection[str]:
        """All patients."""
        ...

    def lesion_volume(self, patient: str) -> float:
        """Lesion volume of a patient, in one unit for all."""
        ...

    def person(self, patient: str) -> int | str:
        """What the scans of one person have in common."""
        ...


def persons_of(store: Scans, names: Iterable[str]) -> list[tuple[str, ...]]:
    """These patients as persons: the scans of each, in order of their names; persons in that of their first scans."""
    scans: dict[int | str, list[str]] = defaultdict(list)
    for name in sorted(names):
        scans[store.person(name)].append(name)
    return [tuple(several) for several in scans.values()]


def largest_lesion(store: Scans, scans: Sequence[str]) -> float:
    """The largest lesion volume among a person's scans, by which persons are ordered."""
    return max(store.lesion_volume(name) for name in scans)


def make_split(store: Scans, config: SplitConfig) -> Split:
    """Draw a split in which each part sees small, large and absent lesions alike.

    Patients are ordered by lesion volume and cut into blocks of neighbours; within a block the order is
    shuffled, and each patient goes to the part that is furthest below its share. Sizes are therefore within
    one patient of the shares, and every block is spread over the parts. Where the cohort names its official test
    patients, exactly these are tested, and the others are drawn to train and to validate in their shares of each other.

    A person of several scans counts and is drawn as one patient, by the largest lesion of the scans, and takes all of
    them along.

    Raises:
        InputError: too few patients for three parts, or a part that cannot be scored for want of a lesion.
    """
    rng = np.random.default_rng([config.seed, 0x5711])
    official = store.official_test
    shares = _drawn_shares(config, official)
    persons = persons_of(store, set(store.patients) - set(official))
    order = sorted(rng.permutation(len(persons)).tolist(), key=lambda i: largest_lesion(store, persons[i]))
    block = math.ceil(1 / min(shares.values()))
    parts: dict[Part, list[tuple[str, ...]]] = {"train": [], "val": [], "test": persons_of(store, official)}
    for start in range(0, len(order), block):
        for count, i in enumerate(rng.permutation(order[start : start + block]).tolist(), start=start + 1):
            lacking = max(shares, key=lambda part: shares[part] * count - len(parts[part]))
            parts[lacking].append(persons[i])
    members = {part: tuple(sorted(name for scans in parts[part] for name in scans)) for part in PARTS}
    split = Split(cohort_hash=store.cohort_hash, seed=config.seed, groups=_groups(store), **members)
    _check_parts(split, store)
    return split


def _groups(store: Scans) -> tuple[tuple[str, ...], ...]:
    return tuple(scans for scans in persons_of(store, store.patients) if len(scans) > 1)


def _drawn_shares(config: SplitConfig, official_test: Sequence[str]) -> dict[Part, float]:
    """The shares of the parts that are drawn: all three, or train and val where the test patients are given."""
    if not official_test:
        return {part: getattr(config, part) for part in PARTS}
    drawn = config.train + config.val
    return {"train": config.train / drawn, "val": config.val / drawn}


def _check_parts(split: Split, store: Scans) -> None:
    for part in PARTS:
        if not any(store.lesion_volume(name) > 0 for name in getattr(split, part)):
            raise InputError(
                f"cohort.split: the {part} part would hold {split.size(part)} and no lesion "
                f"({in_words(map(store.person, store.patients))} in all); add patients, or change cohort.split"
            )


def lock_split(path: Path, store: "Store", config: SplitConfig) -> Split:
    """The split kept at ``path``, or a new one written there.

    Raises:
        InputError: the kept split belongs to another cohort, or to one with other groups, was edited, or is no split.
    """
    if not path.exists():
        split = make_split(store, config)
        write_split(path, split)
        return split
    split, is_sealed = _read(path)
    if split.cohort_hash != store.cohort_hash or set(store.patients) != {
        *split.train,
        *split.val,
        *split.test,
    }:
        raise InputError(
            f"{path}: the split is locked to cohort {split.cohort_hash[:12]}, but the data is "
            f"{store.cohort_hash[:12]}; restore the data, or start a new run with --name"
        )
    if split.seed != config.seed:
        raise InputError(
            f"{path}: drawn with seed {split.seed}, not {config.seed}; "
            "go back to that seed, or start a new run with --name"
        )
    if store.official_test and set(split.test) != set(store.official_test):
        raise InputError(
            f"{path}: tests other patients than the cohort's official_test; start a new run with --name, or restore "
            "cohort.json"
        )
    if split.groups != _groups(store):
        raise InputError(
            f"{path}: drawn when other patients were scans of one person than {MANIFEST} says now; restore its groups, "
            "or start a new run with --name"
        )
    # Earlier versions wrote no seal; what they wrote is what their seed draws.
    if not is_sealed and split != make_split(store, config):
        raise InputError(_broken_seal(path))
    return split


def write_split(path: Path, split: Split) -> None:
    """Keep a split with its seal."""
    write_text_atomically(path, json.dumps({**split.model_dump(mode="json"), "seal": _seal(split)}, indent=1) + "\n")


def read_split(path: Path) -> Split:
    """Read a split file.

    Raises:
        InputError: the file is missing, is no split, or was edited after it was locked.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[Split, bool]:
    """The split, and whether it is sealed."""
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        seal = content.pop("seal", None)
        split = Split.model_validate(content)
    except (OSError, ValueError, TypeError) as error:
        reason = first_line(error)
        raise InputError(f"{path}: not a readable split ({reason}); restore it from a copy of the run") from error
    if seal not in (None, _seal(split)):
        raise InputError(_broken_seal(path))
    return split, seal is not None


def _seal(split: Split) -> str:
    """SHA-256 over the parts, the seed and the cohort's hash."""
    return hashlib.sha256(split.model_dump_json().encode()).hexdigest()


def _broken_seal(path: Path) -> str:
    return (
        f"{path}: edited after the split was locked, so its test patients may have been trained on; "
        "restore it from a copy of the run, or start a new run with --name"
    )
