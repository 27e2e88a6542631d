"""From a space file's cohort section to a compiled, split cohort."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_prep.cohort.compiled import CompiledCohort, compile_cohort
from data_prep.cohort.duplicates import AlikeSlices, find_alike, read_alike, write_alike
from data_prep.cohort.folds import lock_folds
from data_prep.cohort.layout import LAYOUT_REMEDY, MANIFEST, has_layout, read_manifest, refuse_unfinished
from data_prep.cohort.normalisation import Normalisation, training_normalisation
from data_prep.cohort.pixels import GREY, Pixels, in_chosen_windows, pixels_of
from data_prep.cohort.split import Split, lock_split
from data_prep.cohort.store import Store
from data_prep.common.errors import InputError
from data_prep.common.machine import available_cores
from data_prep.phantom.cohort import PHANTOM_WINDOWS, build_phantom_cohort
from data_prep.phantom.config import PhantomConfig
from data_prep.phantom.patients import VERSION
from search.run.folder import RunFolder
from search.spec.settings import CohortConfig

PHANTOM_PREFIX = "phantom-"
CACHE = ".cache"
"""Folder below the results where compiled cohorts are kept for all runs."""
Progress = Callable[[str, int, int], None]
"""Called with a piece of work, how much of it is done, and how much there is."""


class CohortPlace(NamedTuple):
    """Where the cohort lies."""

    root: Path
    is_phantom: bool
    """Whether it is the synthetic cohort that stands in for missing data; then it may not exist yet."""

    @property
    def is_there(self) -> bool:
        """Whether it need not be built; a user's is there."""
        return not self.is_phantom or (self.root / MANIFEST).exists()


@dataclass(frozen=True)
class Prepared:
    """A cohort ready for training, and who trains, validates and is tested."""

    data: CompiledCohort
    split: Split
    normalisation: Normalisation
    alike: Sequence[AlikeSlices]
    """Slices that patients of different parts share."""
    folds: tuple[Split, ...] = ()
    """Who trains and validates in each fold, where trials are measured on folds."""


def prepare(
    place: CohortPlace, config: CohortConfig, run: RunFolder, cache: Path, on_progress: Progress, *, folds: int = 0
) -> Prepared:
    """Build the cohort where it is yet to be built, compile it, lock the split and its folds into the run folder.

    Raises:
        InputError: no cohort, a broken one, or one that is not the run's.
    """
    if not place.is_there:
        jobs = available_cores()
        build_phantom_cohort(place.root, config.phantom, jobs, lambda i, n: on_progress("building the phantom", i, n))
    data = compile_cohort(
        place.root,
        cache,
        config.picture,
        on_patient=lambda i, n: on_progress("compiling slices", i, n),
    )
    split = lock_split(run.split, data.store, config.split)
    check_lesions(data.store, split, config.image_size)
    made = lock_folds(run.folds, data.store, split, folds) if folds else ()
    for fold in made:
        check_lesions(data.store, fold, config.image_size)
    alike = alike_slices(run.near_duplicates, data, split, made)
    return Prepared(data, split, training_normalisation(data.store, split), alike, made)


def alike_slices(table: Path, data: CompiledCohort, split: Split, folds: Sequence[Split]) -> list[AlikeSlices]:
    """Slices that leak from one part or fold into another, looked for once and kept in ``table``.

    Raises:
        InputError: the table is damaged, or a slice cannot be read.
    """
    if not table.exists():
        write_alike(table, find_alike(data, split, folds))
    return read_alike(table)


def check_lesions(store: Store, split: Split, image_size: int) -> None:
    """Refuse a size at which the lesions of a part vanish: nothing could be learned or measured.

    Raises:
        InputError: no training or no validation slice holds lesion at ``image_size``.
    """
    for part, names in (("training", split.train), ("validation", split.val)):
        entries = [store.patients[name] for name in names]
        if not any(store.lesion_N[entry.start : entry.stop].any() for entry in entries):
            raise InputError(
                f"cohort.image_size: at {image_size} pixels no lesion of the {part} patients is left; raise it"
            )


def find_cohort(config: CohortConfig) -> CohortPlace:
    """The cohort to use: the user's, or the synthetic one.

    Raises:
        InputError: there is no cohort and the file does not ask for a synthetic one, or the folder holds
            something that is no cohort, or one whose import was not finished.
    """
    root = Path(config.root).expanduser()
    if has_layout(root):
        refuse_unfinished(root)
        return CohortPlace(root, is_phantom=False)
    others = [f for f in root.iterdir() if not f.name.startswith((PHANTOM_PREFIX, "."))] if root.is_dir() else []
    # Whoever changed the folder means that folder: a typing error must not end in synthetic results.
    if config.fallback == "none" or others or config.root != CohortConfig().root:
        missing = "no images/ folder" if root.is_dir() else "no such folder"
        found = f"it holds {others[0].name}, but {missing}" if others else missing
        raise InputError(f"cohort.root: {root}: {found}; {LAYOUT_REMEDY}")
    return CohortPlace(root / f"{PHANTOM_PREFIX}{phantom_key(config.phantom)}", is_phantom=True)


def window_count(place: CohortPlace, config: CohortConfig) -> int:
    """In how many windows the cohort's slices come; read from its manifest, before anything is compiled.

    Raises:
        InputError: it does not hold the windows that are asked for.
    """
    root, is_phantom = place
    manifest = root / MANIFEST
    without = Pixels(PHANTOM_WINDOWS) if is_phantom else GREY
    pixels = pixels_of(read_manifest(manifest)) if manifest.exists() else without
    return in_chosen_windows(pixels, config.intensity_window, str(root)).count


def is_synthetic(config: CohortConfig) -> bool | None:
    """Whether a cohort is; None where it is not there any more, or does not say."""
    try:
        place = find_cohort(config)
    except InputError:
        return None
    if place.is_phantom:
        return True
    manifest = place.root / MANIFEST
    return bool(json.loads(manifest.read_text(encoding="utf-8")).get("synthetic")) if manifest.exists() else None


def phantom_key(config: PhantomConfig) -> str:
    """Short name of a synthetic cohort: other settings or another version of the phantom, another folder."""
    text = json.dumps([VERSION, config.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def leak_in_words(alike: Sequence[AlikeSlices]) -> str:
    """That test figures may be too good, and why."""
    identical = sum(pair.identical for pair in alike)
    patients = {(pair.patient, pair.other_patient) for pair in alike}
    return (
        f"{len(alike)} pairs of slices ({identical} identical) of {len(patients)} pairs of patients look alike across "
        "training, validation and test, so figures may be too good; where they are scans of one patient, say so by "
        "--group-by of python -m data_prep import or index"
    )
