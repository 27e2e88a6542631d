"""What a run is refused for before it begins: the same checks for the run and for its dry run, which writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from typing import NamedTuple

from data_prep.cohort.compiled import cache_folder
from data_prep.cohort.folds import make_folds
from data_prep.cohort.layout import Cohort
from data_prep.cohort.split import Split, make_split
from data_prep.cohort.store import store_folder
from data_prep.common.errors import InputError
from data_prep.phantom.config import PhantomConfig
from data_prep.phantom.patients import is_lesion_free, patient_name
from lcnn.network.model import build_model
from search.placement.rehearsal import usual_normalisation
from search.run.database import check_study_is_free
from search.run.folder import RunFolder, check_spec
from search.run.opened import Run
from search.run.prepare import CACHE, prepare
from search.run.study import study_of
from search.run.warm_start import WarmStart, read_warm_start


class Asked(NamedTuple):
    """What the command line asks of a run, beside what the space file says."""

    extension: bool = False
    """Whether more of a finished run is wanted."""
    warm_start: str | None = None
    """Another run, whose best settings are tried."""
    address: str | None = None
    """Of a Ray cluster; None: this machine."""


NOTHING_ASKED = Asked()


def check_cohort_and_network(run: Run) -> None:
    """Refuse a cohort that is not there, and settings that no trial could build a network from.

    Raises:
        InputError: either.
    """
    build_model(run.spec.training, usual_normalisation(run.windows))


def check_run(run: Run, asked: Asked) -> tuple[bool, WarmStart | None]:
    """Look at all that a run needs beside its cohort; nothing is written.

    Returns:
        Whether the run folder holds this search already, and the points of the warm start.

    Raises:
        InputError: the folder holds another search or cannot be written, a storage is not usable or another run's,
            the test part's log was tampered with, there is no run to extend or to start from.
    """
    folder, storage = run.folder, run.spec.storage
    folder.check_place()
    resumed = check_spec(folder, run.spec)
    warm = read_warm_start(asked.warm_start, run.space) if asked.warm_start else None
    if asked.extension and not resumed:
        raise InputError(f"{folder.root}: no run to extend; start it with --trials N, without a plus")
    place = study_of(run.spec, folder)
    if resumed:
        folder.check_test_openings()
    else:
        check_study_is_free(place)
    if storage.checkpoints is not None:
        # pyarrow takes a third of a second to import, which a run that needs no storage can do without.
        from search.run.checkpoint_store import CheckpointStore  # noqa: PLC0415

        store = CheckpointStore(storage.checkpoints)
        if not resumed:
            store.check_is_free(folder.root.resolve().name, tries=False)
    return resumed, warm


# --- the cohort, without leaving anything behind -----------------------------------------------------------------


def check_parts(run: Run, cohort: Cohort | None) -> Split:
    """Split and folds as the run would lock them, from the pixels, in a folder that goes away again.

    Args:
        run: the run.
        cohort: its cohort; None where it is the synthetic one and not built yet.

    Raises:
        InputError: slices that cannot be read, parts or folds without a lesion, a split that is not this cohort's.
    """
    spec, folder = run.spec, run.folder
    if cohort is None:
        expected = expected_scans(spec.cohort.phantom)
        split = make_split(expected, spec.cohort.split)
        if spec.folds.count:
            make_folds(expected, split, spec.folds.count)
        return split
    with TemporaryDirectory(prefix="lcnn-dry-run-") as scratch:
        copied = RunFolder(Path(scratch) / folder.root.name)
        copied.root.mkdir()
        for kept in (folder.split, folder.folds, folder.near_duplicates):
            if kept.exists():
                copy(kept, copied.root)
        cache = run.results / CACHE
        if not store_folder(cohort, cache_folder(run.place.root, cache), spec.cohort.picture).exists():
            cache = Path(scratch) / CACHE
        return prepare(run.place, spec.cohort, copied, cache, run.display.progress, folds=spec.folds.count).split


@dataclass(frozen=True)
class ExpectedScans:
    """The synthetic cohort before it is built, as `data_prep.cohort.split.Scans`.

    Who has a lesion is known, and not how large: each part gets as many lesions as it will have, of other patients.
    """

    patients: Mapping[str, float]
    """1 for a patient with a lesion, 0 without."""
    cohort_hash: str = ""
    official_test: tuple[str, ...] = ()

    def lesion_volume(self, patient: str) -> float:
        """1 with a lesion, 0 without."""
        return self.patients[patient]

    def person(self, patient: str) -> str:
        """Each is a person of its own."""
        return patient


def expected_scans(config: PhantomConfig) -> ExpectedScans:
    """What is known of the synthetic cohort of these settings."""
    return ExpectedScans({patient_name(i): float(not is_lesion_free(config, i)) for i in range(config.patients)})
