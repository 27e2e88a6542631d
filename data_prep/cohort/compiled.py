"""A cohort folder made ready for training: manifest, content hash and compiled store in one call."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_prep.cohort.layout import Cohort, open_cohort
from data_prep.cohort.store import Store, compile_store
from data_prep.preprocessing.picture import PictureConfig


@dataclass(frozen=True)
class CompiledCohort:
    """A cohort, where its files lie, and its compiled slices."""

    cohort: Cohort
    root: Path
    store: Store


def cache_folder(root: Path, cache: Path) -> Path:
    """Where the manifest and stores of the cohort at ``root`` are kept below ``cache``."""
    return cache / f"{root.name}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]}"


def compile_cohort(
    root: Path,
    cache: Path,
    picture: PictureConfig,
    *,
    on_patient: Callable[[int, int], None] | None = None,
) -> CompiledCohort:
    """Check the cohort at ``root`` and compile it, or open what was compiled before.

    Raises:
        InputError: no cohort, a broken one, or one that is not what its manifest says.
    """
    place = cache_folder(root, cache)
    cohort = open_cohort(root, place)
    store = compile_store(cohort, root, place, picture, on_patient=on_patient)
    return CompiledCohort(cohort, root, store)
