"""One run, opened: what every command works on."""

from functools import cached_property
from pathlib import Path

from data_prep.common.wording import counted
from search.console.display import Display
from search.placement.resources import Slots, this_machine
from search.run.course import Course
from search.run.folder import RunFolder, run_folder
from search.run.prepare import CACHE, CohortPlace, Prepared, find_cohort, leak_in_words, prepare, window_count
from search.run.session import Session
from search.run.study import open_ledger
from search.spec.settings import Spec
from search.study.ledger import Ledger


class Run:
    """A run with all that belongs to it. What takes time, the study and the cohort, is opened when it is first used.

    Args:
        spec: its space file, validated.
        folder: where it is kept.
        results: folder of all runs, where compiled cohorts are kept too.
        display: where to report.
        where: names the space file in messages.
    """

    def __init__(self, spec: Spec, folder: RunFolder, results: Path, display: Display, where: Path | str) -> None:
        self.spec, self.folder, self.results, self.display = spec, folder, results, display
        self.session = Session()
        self.space = spec.space(where)
        self.course = Course(folder.course)

    @cached_property
    def slots(self) -> Slots:
        """Trial slots: as planned for this machine, until they are measured."""
        return this_machine(self.spec.resources)

    @cached_property
    def ledger(self) -> Ledger:
        """The study; made where it is not there yet.

        Raises:
            InputError: see `search.run.study.open_ledger`.
        """
        return open_ledger(self.folder, self.spec, self.space)

    @cached_property
    def place(self) -> CohortPlace:
        """Where the cohort lies, or will be built.

        Raises:
            InputError: there is none.
        """
        return find_cohort(self.spec.cohort)

    @cached_property
    def windows(self) -> int:
        """In how many intensity windows slices come.

        Raises:
            InputError: the cohort does not hold those that are asked for.
        """
        return window_count(self.place, self.spec.cohort)

    @property
    def is_prepared(self) -> bool:
        """Whether the cohort is open."""
        return "prepared" in vars(self)

    @cached_property
    def prepared(self) -> Prepared:
        """The cohort, compiled and split; built, compiled and locked into the run folder where it is not yet.

        Raises:
            InputError: see `search.run.prepare.prepare`.
        """
        spec, folder, display = self.spec, self.folder, self.display
        prepared = prepare(
            self.place, spec.cohort, folder, self.results / CACHE, display.progress, folds=spec.folds.count
        )
        display.clear()
        split = prepared.split
        scans = f"{prepared.data.cohort.size}, " if split.groups else ""
        display.say(
            f"Split (locked, by patient): {len(split.train)} train, {len(split.val)} validation, "
            f"{len(split.test)} test; {scans}{counted(prepared.data.cohort.slice_count, 'slice')} at "
            f"{spec.cohort.image_size} pixels"
        )
        if prepared.folds:
            sizes = " or ".join(str(size) for size in sorted({len(fold.val) for fold in prepared.folds}))
            display.say(
                f"Folds: trials are measured on {len(prepared.folds)} folds of the patients outside the test, "
                f"{sizes} of them validating in each"
            )
        if prepared.alike:
            display.say(f"WARNING: {leak_in_words(prepared.alike)}; see {folder.near_duplicates}")
        return prepared


def open_run(root: Path, results: Path, display: Display) -> Run:
    """A run that is there, by its folder.

    Raises:
        InputError: the folder is no run, or its space file is damaged.
    """
    folder = RunFolder(root)
    return Run(folder.read_spec(), folder, results, display, folder.spec)


def run_of(spec: Spec, where: Path | str, results: Path, display: Display) -> Run:
    """The run of a space file, whether it is there already or not.

    Raises:
        InputError: a range that is wrong.
    """
    return Run(spec, run_folder(results, spec), results, display, where)
