"""Folds over patients, for cohorts so small that one validation part says little.

The patients that train and validate are dealt into folds; in each fold one deal validates and the others train. The
test part is that of the split, whatever the folds.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.cohort.split import Scans, Split, largest_lesion, persons_of
from data_prep.cohort.store import Store
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import write_text_atomically
from data_prep.common.wording import counted


def make_folds(store: Scans, split: Split, count: int) -> tuple[Split, ...]:
    """The split's training and validation patients as ``count`` folds, each with lesions of all sizes.

    Patients are ordered by lesion volume and dealt in rounds, each round in another order drawn from the split's
    seed, so that sizes differ by one patient at most. Scans of one person are dealt together, as one patient.

    Returns:
        One split a fold, which differ in who trains and who validates.

    Raises:
        InputError: more folds than patients with a lesion.
    """
    names = [name for name in store.patients if name in {*split.train, *split.val}]
    place = {name: number for number, name in enumerate(names)}  # the cohort's order decides who is dealt where
    persons = sorted(persons_of(store, names), key=lambda scans: min(place[scan] for scan in scans))
    volumes = [largest_lesion(store, scans) for scans in persons]
    with_lesion = sum(volume > 0 for volume in volumes)
    if count > with_lesion:
        raise InputError(
            f"folds.count: {counted(count, 'fold')}, but only {counted(with_lesion, 'patient')} with a lesion besides "
            "the test part; lower it"
        )
    rng = np.random.default_rng([split.seed, 0xF01D, count])
    order = sorted(rng.permutation(len(persons)).tolist(), key=lambda i: -volumes[i])
    deals: list[set[str]] = [set() for _ in range(count)]
    for start in range(0, len(order), count):
        for deal, i in zip(rng.permutation(count).tolist(), order[start : start + count], strict=False):
            deals[deal].update(persons[i])
    return tuple(
        split.model_copy(update={"train": _in_order(names, deal, inside=False), "val": _in_order(names, deal)})
        for deal in deals
    )


def _in_order(names: Sequence[str], members: set[str], *, inside: bool = True) -> tuple[str, ...]:
    return tuple(name for name in names if (name in members) == inside)


def lock_folds(path: Path, store: Store, split: Split, count: int) -> tuple[Split, ...]:
    """The folds, written to ``path`` where they are not there yet: who validates in which.

    Raises:
        InputError: the kept folds are not those of the split, or the file is damaged.
    """
    folds = make_folds(store, split, count)
    members = [list(fold.val) for fold in folds]
    if not path.exists():
        write_text_atomically(path, json.dumps({"cohort_hash": split.cohort_hash, "validation": members}, indent=1))
        return folds
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["validation"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({first_line(error)}); delete it to have it made again") from error
    if kept != members:
        raise InputError(f"{path}: not the folds of this split; restore it, or start a new run with --name")
    return folds
