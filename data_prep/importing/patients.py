"""Patients of a source into the cohort's layout, each whole or absent, under ids that tell nothing.

    <root>/images/patient_0001/001.png ...   <root>/masks/patient_0001/001.png ...
    <root>/.import/patient_0001.json         what it was made from, as a hash: how a rerun knows that it is done

A patient is done when its note is there, for the note is written last. Where the files or the settings have changed
since, the patient is made anew.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.cohort.layout import NOTES, Spacing
from data_prep.common.errors import InputError
from data_prep.common.files import LOCK, png_bytes, replacing_folder, write_text_atomically
from data_prep.intensity.window import Window
from data_prep.intensity.window import to_pixels as windowed
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.reading import ReadOptions, preview_case, read_case
from data_prep.volumes.mask import ignored_in, lesion_in, to_grey
from data_prep.volumes.volume import Volume

PARTS = ("images", "masks")
PICTURE_READING = ("masks by palette and transparency",)
"""How pictures are read, where that has changed: patients that were made otherwise are made anew."""
IF_UNWRITABLE = "make room, or choose another folder; the same command goes on"


@dataclass(frozen=True)
class ImportSettings:
    """How patients are written."""

    root: Path
    windows: tuple[Window, ...]
    """In which HU become 8-bit grey values; slices that are grey already are left as they are."""
    keeps_hu: bool
    """Whether HU are written whole, in 16 bits; windows are then applied when the cohort is compiled."""
    spacing_mm: Spacing | None
    """For sources that do not tell theirs."""
    reading: ReadOptions


@dataclass(frozen=True)
class Task:
    """One patient to be imported."""

    id: str
    case: Case
    settings: ImportSettings


class Note(BaseModel):
    """What is kept of a patient that is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_from: str
    """SHA-256 over the settings and the sizes and times of the source's files; it holds no name."""
    spacing_mm: Spacing | None
    is_windowed: bool
    """Whether the source's slices were grey values already, so that no window of ours was applied."""
    doubt: str | None = None
    """What the scan's values leave open; see `data_prep.volumes.checks`."""
    taken: str | None = None
    """As of a `Reading`."""
    has_lesion: bool = True
    has_ignored: bool = False
    """Whether its masks hold pixels that are ignored."""


@dataclass(frozen=True)
class Fault:
    """Why a patient was not imported, in one line."""

    reason: str


def import_patient(task: Task) -> Note | Fault:
    """Read a patient and write it, unless it is there already.

    Raises:
        InputError: the cohort cannot be written to, so that no patient can be.
    """
    try:
        made_from = _fingerprint(task)
        done = read_note(task.settings.root, task.id)
        if done and done.made_from == made_from:
            return done
        reading = read_case(task.case, task.settings.reading)
        if reading.volume.is_windowed and len(task.settings.windows) > 1:
            raise InputError(f"{task.case.images[0]}: grey values already, in one window; give --window one name")
    except InputError as error:
        return Fault(str(error))
    except MemoryError:
        return Fault(f"{task.case.images[0]}: does not fit into memory; use fewer processes by --jobs")
    volume = reading.volume
    note = Note(
        made_from=made_from,
        spacing_mm=volume.spacing_mm or task.settings.spacing_mm,
        is_windowed=volume.is_windowed,
        doubt=volume.doubt,
        taken=reading.taken,
        has_lesion=bool(lesion_in(reading.label_ZHW).any()),
        has_ignored=bool(ignored_in(reading.label_ZHW).any()),
    )
    try:
        _write(task, to_pixels(volume, task.settings), to_grey(reading.label_ZHW), note)
    except OSError as error:
        raise InputError(unwritable(task.settings.root, error)) from error
    return note


def preview_patient(case: Case) -> str | Fault | None:
    """What would be taken of a patient, or why nothing would."""
    try:
        return preview_case(case)
    except InputError as error:
        return Fault(str(error))


def unwritable(root: Path, error: OSError) -> str:
    """What to say where a cohort cannot be written."""
    return f"{root}: cannot be written ({error.strerror or error}); {IF_UNWRITABLE}"


def to_pixels(volume: Volume, settings: ImportSettings) -> NDArray[Any]:
    """A scan as what is written: 8-bit grey values or colours, or 16 bits that hold HU."""
    if volume.is_windowed:
        return volume.values_ZHW.round().astype(np.uint8)
    return windowed(volume.values_ZHW, settings.windows, keeps_hu=settings.keeps_hu)


def read_note(root: Path, patient: str) -> Note | None:
    """The note of a patient that is done; None where it is not, or where its slices are gone."""
    if not all((root / part / patient).is_dir() for part in PARTS):
        return None
    try:
        return Note.model_validate_json(_note(root, patient).read_bytes())
    except (OSError, ValidationError):
        return None  # half of a note is none: the patient is made anew


def _write(task: Task, pixels: NDArray[Any], mask_ZHW: NDArray[np.uint8], note: Note) -> None:
    root = task.settings.root
    _note(root, task.id).unlink(missing_ok=True)
    for part, slices in zip(PARTS, (pixels, mask_ZHW), strict=True):
        with replacing_folder(root / part / task.id, keep_existing=False) as partial:
            for number, picture in enumerate(slices, start=1):
                (partial / f"{number:03d}.png").write_bytes(png_bytes(Image.fromarray(picture)))
    write_text_atomically(_note(root, task.id), note.model_dump_json() + "\n")


def _note(root: Path, patient: str) -> Path:
    return root / NOTES / f"{patient}.json"


def _fingerprint(task: Task) -> str:
    settings = task.settings
    ignored = settings.reading.ignored_labels
    inputs = [repr((_written(settings), settings.keeps_hu, settings.spacing_mm, settings.reading.hu_offset,
                  sorted(settings.reading.lesion_labels or ()), None if ignored is None else sorted(ignored),
                  str(task.case.kind)))]  # fmt: skip
    if task.case.kind in (SourceFormat.PICTURES, SourceFormat.AISD):
        inputs += PICTURE_READING
    if task.case.series is not None:
        inputs.append(f"series {task.case.series}")
    for file in (*task.case.images, None, *task.case.masks):
        inputs.append("none" if file is None else _state(file))
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()


def _written(settings: ImportSettings) -> object:
    """What of the windows is in the pixels; one by itself, as notes of earlier versions have it."""
    return settings.windows[0] if len(settings.windows) == 1 else settings.windows


def _state(file: Path) -> str:
    try:
        status = file.stat()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); restore it, or its link") from error
    return f"{status.st_size} {status.st_mtime_ns}"


def clear_leftovers(root: Path, ids: Sequence[str]) -> list[str]:
    """Remove what a killed import left, and patients of an earlier import that the source no longer has.

    Returns:
        The ids of those patients.
    """
    for part in PARTS:
        for folder in [*(root / part).glob(".patient_*.partial"), *(root / part).glob(".patient_*.former")]:
            shutil.rmtree(folder, ignore_errors=True)
    for note in (root / NOTES).glob(".*.partial"):
        note.unlink()
    made = {note.stem for note in (root / NOTES).glob("patient_*.json")}
    gone = sorted(made - set(ids))
    for patient in gone:
        for part in PARTS:
            shutil.rmtree(root / part / patient, ignore_errors=True)
        _note(root, patient).unlink()
    return gone


def refuse_foreign(root: Path) -> None:
    """See that a folder is new, empty, or an earlier import.

    Raises:
        InputError: it holds something else.
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file; name a folder")
    if root.is_dir() and {path.name for path in root.iterdir()} - {LOCK} and not (root / NOTES).is_dir():
        raise InputError(f"{root}: holds something else; remove it or name another folder")
