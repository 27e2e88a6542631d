"""Which DICOM files make a study: decided by their headers, not by where files lie.

Of each file only its name is kept, so that memory stays flat: headers are read whole a study at a time, where it is
worked on.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.cohort.layout import natural_key
from data_prep.common.errors import InputError
from data_prep.common.progress import in_processes
from data_prep.sources.dicom.headers import Mark, ObjectKind, files_below, has_mark, read_mark

BATCH = 256
"""Files that a process reads at a time."""
LEAST_FILES = 4000
"""From which on other processes are worth their start, of two to three seconds."""


@dataclass(frozen=True)
class DicomStudy:
    """A patient's study as found in a folder."""

    files: tuple[Path, ...]
    """Its CT files, and damaged files in folders that are its own: they may be slices of it."""
    masks: tuple[Path, ...]
    """Its DICOM-SEG files."""
    person: str = field(repr=False)
    """Whom the headers name, or the study where they name nobody, as of a `Mark`: not to be printed."""
    visit: str = field(repr=False)
    """Whom and which study the headers name, as of a `Mark`: not to be printed."""

    @property
    def place(self) -> Path:
        """The folder of its first file, for messages."""
        return self.files[0].parent


@dataclass(frozen=True)
class Studies:
    """What a folder holds."""

    found: tuple[DicomStudy, ...]
    lost: tuple[str, ...]
    """A line for each damaged file of which nobody can say whose it is."""

    def complete(self) -> tuple[DicomStudy, ...]:
        """The studies, where nothing is lost.

        Raises:
            InputError: a file is damaged, and may be a slice of any study.
        """
        if self.lost:
            raise InputError(self.lost[0])
        return self.found


@dataclass(frozen=True)
class Damage:
    """Why a file's mark cannot be read."""

    reason: str


@dataclass
class _Gathered:
    """The files of a study, as they are come upon."""

    person: str
    visit: str
    pictures: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)


def is_dicom(path: Path) -> bool:
    """Whether a file, or a file in a folder or below it, is DICOM."""
    return any(has_mark(file) for file in files_below(path))


def find_studies(path: Path, jobs: int = 1) -> Studies:
    """The CT studies in a folder and its folders.

    Args:
        path: the folder, or a file.
        jobs: processes that may read.

    Raises:
        InputError: there is none.
    """
    by_study, damaged = _gather(list(files_below(path)), jobs)
    found = [gathered for gathered in by_study.values() if gathered.pictures]
    if not found:
        first = next(iter(damaged.values()), None)
        raise InputError(first or f"{path}: no CT pictures in DICOM files; give the folder of a CT study")
    lost = _give_back(damaged, found)
    studies = tuple(DicomStudy(tuple(one.pictures), tuple(one.masks), one.person, one.visit) for one in found)
    return Studies(studies, lost)


def processes_for(files: int, jobs: int) -> int:
    """How many of ``jobs`` processes are worth starting to read the headers of so many files."""
    return jobs if files >= LEAST_FILES else 1


def _gather(files: Sequence[Path], jobs: int) -> tuple[dict[str, _Gathered], dict[Path, str]]:
    """Files of pictures and masks by their study, and why the damaged ones cannot be read."""
    by_study: dict[str, _Gathered] = {}
    damaged: dict[Path, str] = {}
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    processes = processes_for(len(files), jobs)
    for batch, marks in in_processes(read_marks, batches, jobs=processes, what="reading headers"):
        for file, mark in zip(batch, marks, strict=True):
            if isinstance(mark, Damage):
                damaged[file] = mark.reason
            elif mark and mark.kind is not ObjectKind.OTHER:
                gathered = by_study.setdefault(mark.study, _Gathered(mark.person, mark.study))
                (gathered.pictures if mark.kind is ObjectKind.CT else gathered.masks).append(file)
    return by_study, damaged


def read_marks(files: Sequence[Path]) -> list[Mark | Damage | None]:
    """What each file is and of whom, as `read_mark` says, or why it cannot be said."""
    return [_read_mark(file) for file in files]


def _read_mark(file: Path) -> Mark | Damage | None:
    try:
        return read_mark(file)
    except InputError as error:
        return Damage(str(error))


def _give_back(damaged: dict[Path, str], found: Sequence[_Gathered]) -> tuple[str, ...]:
    """Add damaged files to the study that alone has pictures beside them; the lines of the others."""
    owners: dict[Path, dict[int, _Gathered]] = defaultdict(dict)
    for number, study in enumerate(found):
        for file in study.pictures:
            owners[file.parent][number] = study
    lost = []
    for file, reason in damaged.items():
        beside = list(owners.get(file.parent, {}).values())
        if len(beside) == 1:
            _insert(beside[0].pictures, file)
        else:
            lost.append(reason)
    return tuple(lost)


def _insert(pictures: list[Path], file: Path) -> None:
    """Put a file where it will be once it is mended, for patients are known by their first files."""
    key = natural_key(file.name)
    folder = [number for number, other in enumerate(pictures) if other.parent == file.parent]
    before = [number for number in folder if natural_key(pictures[number].name) < key]
    pictures.insert(before[-1] + 1 if before else folder[0], file)
