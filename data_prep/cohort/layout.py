"""The cohort on disk: one folder of image slices and one of mask slices a patient, and ``cohort.json``.

    <root>/images/<patient>/<slice>.png      8-bit grey slices, from the skull base upward; others: see windows, hu
    <root>/masks/<patient>/<slice>.png       the same names; 0 background, 255 (or 1) lesion, 128 ignored
    <root>/cohort.json                       what this file writes: patients, slice order, spacing, groups, hash

``image/`` and ``mask/`` are taken as well. Slice names are ordered naturally (2 before 10).
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from data_prep.cohort.groups import in_words
from data_prep.common.errors import InputError, first_fault, first_line
from data_prep.common.files import write_text_atomically
from data_prep.common.machine import available_cores
from data_prep.common.wording import few, pasted
from data_prep.intensity.window import COLOURS, KeptHu, Window

IMAGE_FOLDERS = ("images", "image")
MASK_FOLDERS = ("masks", "mask")
SLICE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MANIFEST = "cohort.json"
NOTES = ".import"
"""Folder in a cohort that was imported, with what a rerun of the import has to know."""
Distance = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Spacing = tuple[Distance, Distance, Distance]
"""Distance between voxel centres in mm as (slice, row, column)."""
LAYOUT_REMEDY = "expected images/<patient>/<slice>.png and masks/<patient>/<slice>.png"


class Patient(BaseModel):
    """One scan of a patient: its slices in order, as file names relative to the cohort's root."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    images: tuple[str, ...]
    masks: tuple[str, ...]
    spacing_mm: Spacing | None = None
    """None where it is not known."""
    hash: str
    """SHA-256 over slice names and file contents."""
    group: int | None = None
    """Number that the scans of one person share; None: the only scan of its person."""

    @property
    def person(self) -> int | str:
        """What scans of one person have in common, and of two persons never."""
        return self.id if self.group is None else self.group

    @model_serializer(mode="wrap")
    def _without_an_empty_group(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """So that a manifest without groups stays what it was before there were any."""
        content: dict[str, Any] = dump(self)
        if content.get("group", 0) is None:
            del content["group"]
        return content


class Cohort(BaseModel):
    """What ``cohort.json`` holds: everything that is known about the cohort besides its pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    name: str
    synthetic: bool = False
    window: str | None = None
    """Intensity window of the 8-bit slices, for example ``brain (level 40 HU, width 80 HU)``."""
    windows: tuple[Window, ...] = ()
    """The same for programs, in HU; empty: not known. Three: slices are colour pictures, a window each colour."""
    hu: KeptHu | None = None
    """How slices of 16 bits hold HU; None where slices have 8 bits."""
    has_ignored: bool = False
    """Whether masks hold 128 as well: pixels that are neither learnt nor scored."""
    official_test: tuple[str, ...] = ()
    """Ids of the test patients that the cohort's authors named; every split tests exactly these. Empty: none named."""
    source: str | None = None
    licence: str | None = None
    patients: tuple[Patient, ...]
    hash: str
    """SHA-256 over the patients' ids and hashes: changes when any pixel, name or order does. Groups are no part of it:
    a split that was locked with other groups is refused by itself."""

    @model_validator(mode="after")
    def _official_test_patients_are_here(self) -> "Cohort":
        unknown = set(self.official_test) - {patient.id for patient in self.patients}
        if unknown:
            raise ValueError(f"official_test names {min(unknown)}, which is no patient")
        divided = find_divided(self.patients, self.official_test)
        if divided:
            raise ValueError(
                f"official_test names {divided[0]}, but not {divided[1]}, another scan of the same patient"
            )
        return self

    @model_validator(mode="after")
    def _slices_hold_the_windows(self) -> "Cohort":
        if len(self.windows) not in (0, 1, COLOURS):
            raise ValueError(f"windows: {len(self.windows)} of them; 8-bit slices hold 1 or {COLOURS}")
        return self

    @property
    def grey_window(self) -> str | None:
        """In which window its slices are when they are shown; None where nobody has said."""
        windows = self.hu.windows if self.hu else self.windows
        return str(windows[0]) if windows else self.window

    @property
    def size(self) -> str:
        """How many patients it has, and how many scans where some have several, in words."""
        return in_words(patient.person for patient in self.patients)

    @property
    def slice_count(self) -> int:
        """Number of slices over all patients."""
        return sum(len(patient.images) for patient in self.patients)


def find_divided(patients: Iterable[Patient], chosen: Iterable[str]) -> tuple[str, str] | None:
    """A scan that was chosen and one of the same person that was not; None where all or no scans of each were."""
    names = set(chosen)
    known = list(patients)
    inside = {patient.person: patient.id for patient in known if patient.id in names}
    outside = (patient for patient in known if patient.id not in names and patient.person in inside)
    return next(((inside[patient.person], patient.id) for patient in outside), None)


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that orders ``slice2`` before ``slice10``; digits sort before letters, case breaks ties."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts], name


def spacing_of(option_mm: Sequence[float] | None) -> Spacing | None:
    """What --spacing-mm says, as (slice, row, column).

    Raises:
        InputError: a distance that is none.
    """
    if option_mm is None:
        return None
    if not all(0 < distance < math.inf for distance in option_mm):
        raise InputError(f"--spacing-mm {' '.join(map(str, option_mm))}: distances are above 0")
    slice_mm, row_mm, column_mm = option_mm
    return slice_mm, row_mm, column_mm


def voxel_ml(spacing_mm: tuple[float, float, float]) -> float:
    """Volume of a voxel in ml."""
    return math.prod(spacing_mm) / 1000


def has_layout(root: Path) -> bool:
    """Whether ``root`` holds an image folder of the common layout."""
    return any((root / name).is_dir() for name in IMAGE_FOLDERS)


def scan_cohort(
    root: Path,
    *,
    name: str | None = None,
    synthetic: bool = False,
    window: str | None = None,
    source: str | None = None,
    licence: str | None = None,
    spacing_mm: Spacing | Mapping[str, Spacing] | None = None,
    has_ignored: bool = False,
) -> Cohort:
    """Read the layout under ``root`` and hash every file; nothing is written.

    ``spacing_mm`` gives (slice, row, column) distances, for all or by patient id; patients without one get None.

    Raises:
        InputError: no layout, no patients, or an image without its mask (or the reverse).
    """
    images = part_folder(root, IMAGE_FOLDERS)
    masks = part_folder(root, MASK_FOLDERS)
    folders = sorted((f for f in images.iterdir() if is_patient(f)), key=lambda f: natural_key(f.name))
    if not folders:
        raise InputError(f"{images}: no patient folders; {LAYOUT_REMEDY}")
    orphans = {f.name for f in masks.iterdir() if is_patient(f)} - {f.name for f in folders}
    if orphans:
        raise InputError(f"{masks / min(orphans)}: a mask folder without images; add {images / min(orphans)}")
    by_patient = spacing_mm if isinstance(spacing_mm, Mapping) else {folder.name: spacing_mm for folder in folders}
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        patients = tuple(
            pool.map(lambda folder: _scan_patient(root, folder, masks, by_patient.get(folder.name)), folders)
        )
    return Cohort(
        name=name or root.resolve().name,
        synthetic=synthetic,
        window=window,
        source=source,
        licence=licence,
        has_ignored=has_ignored,
        patients=patients,
        hash=_cohort_hash(patients),
    )


def open_cohort(root: Path, cache: Path) -> Cohort:
    """The cohort under ``root``, checked against its manifest.

    A user's folder is never written to: where it brings no manifest, one is made in ``cache`` on first use.

    Raises:
        InputError: the layout is broken, the files are not those of the manifest, or their import was not finished.
    """
    cohort = read_cohort(root, cache)
    if not _find_manifest(root, cache):
        write_manifest(cohort, cache)
    return cohort


def read_cohort(root: Path, cache: Path | None = None) -> Cohort:
    """The cohort under ``root``, checked against its manifest, or one that ``cache`` holds; nothing is written.

    Raises:
        InputError: as `open_cohort`.
    """
    refuse_unfinished(root)
    manifest = _find_manifest(root, cache)
    return _verify(root, manifest) if manifest else scan_cohort(root)


def _find_manifest(root: Path, cache: Path | None) -> Path | None:
    """The cohort's own manifest, else the one that was made for it."""
    manifests = (folder / MANIFEST for folder in (root, cache) if folder)
    return next((manifest for manifest in manifests if manifest.exists()), None)


def refuse_unfinished(root: Path) -> None:
    """See that a cohort that was imported is whole.

    Raises:
        InputError: it has no manifest, which an import writes last.
    """
    if (root / NOTES).is_dir() and not (root / MANIFEST).exists():
        raise InputError(
            f"{root}: was imported, but not to the end, for {MANIFEST} is missing; import it again, or accept what is "
            f"there by: python -m data_prep index {pasted(root)}"
        )


def check_patients(cohort: Cohort, root: Path, names: Iterable[str]) -> None:
    """See that the files of these patients are still those of the cohort, as hours may have passed since it was opened.

    Raises:
        InputError: a file changed, or cannot be read.
    """
    wanted = set(names)
    for patient in (patient for patient in cohort.patients if patient.id in wanted):
        files = [(root / image, root / mask) for image, mask in zip(patient.images, patient.masks, strict=True)]
        if _slices_hash((image.stem, (image, mask)) for image, mask in files) != patient.hash:
            raise InputError(
                f"{root}: files of {patient.id} changed while the run was going on; restore them and run it again"
            )


def write_manifest(cohort: Cohort, folder: Path) -> None:
    """Write ``cohort.json`` into ``folder`` in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / MANIFEST, cohort.model_dump_json(indent=1) + "\n")


def read_manifest(manifest: Path) -> Cohort:
    """What a ``cohort.json`` says; whether the files are still so is not looked at.

    Raises:
        InputError: it is no manifest.
    """
    try:
        return Cohort.model_validate(json.loads(manifest.read_text(encoding="utf-8")))
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else first_line(error)
        raise InputError(f"{manifest}: not a cohort manifest ({reason}); delete it to have it made anew") from error


def _verify(root: Path, manifest: Path) -> Cohort:
    known = read_manifest(manifest)
    found = scan_cohort(root)
    if found.hash != known.hash:
        raise InputError(
            f"{root}: the cohort is not the one that {manifest.name} describes ({_difference(known, found)}); "
            f"restore the files, or delete {manifest} to accept them as a new cohort"
        )
    return known.model_copy(update={"patients": told_of(known, found)})


def told_of(known: Cohort, found: Cohort) -> tuple[Patient, ...]:
    """The patients as they were found, with what only a manifest tells of them: spacing and group.

    Names of folders and endings are not hashed, so the paths are those found.
    """
    kept = {patient.id: {"spacing_mm": patient.spacing_mm, "group": patient.group} for patient in known.patients}
    return tuple(patient.model_copy(update=kept.get(patient.id, {})) for patient in found.patients)


def with_groups(cohort: Cohort, groups: Mapping[str, int]) -> Cohort:
    """The cohort with the group of each patient, by id; those that are not named have none."""
    patients = tuple(patient.model_copy(update={"group": groups.get(patient.id)}) for patient in cohort.patients)
    return cohort.model_copy(update={"patients": patients})


def _difference(known: Cohort, found: Cohort) -> str:
    before = {patient.id: patient.hash for patient in known.patients}
    after = {patient.id: patient.hash for patient in found.patients}
    changed = [patient for patient in before if patient in after and before[patient] != after[patient]]
    groups = {"added": after.keys() - before.keys(), "gone": before.keys() - after.keys(), "changed": changed}
    changes = [f"{word}: {few(sorted(ids, key=natural_key))}" for word, ids in groups.items() if ids]
    return "; ".join(changes) or "their order changed"


def part_folder(root: Path, names: tuple[str, ...]) -> Path:
    """The first of these folders that ``root`` holds.

    Raises:
        InputError: none of them.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; {LAYOUT_REMEDY} below it")
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root}: no folder {' or '.join(names)}; {LAYOUT_REMEDY}")


def is_patient(folder: Path) -> bool:
    """Whether a path in the image or mask folder is a patient's folder."""
    return folder.is_dir() and not folder.name.startswith(".")


def slice_files(folder: Path) -> dict[str, Path]:
    """Slice files of a folder by their stem, in natural order; empty where there are none.

    Raises:
        InputError: two files for one slice.
    """
    files = [f for f in folder.iterdir() if f.suffix.lower() in SLICE_SUFFIXES and not f.name.startswith(".")]
    slices: dict[str, Path] = {}
    for file in sorted(files, key=lambda f: natural_key(f.stem)):
        if file.stem in slices:
            raise InputError(f"{file}: a second file for slice {file.stem}; keep one of the two")
        slices[file.stem] = file
    return slices


def _scan_patient(root: Path, folder: Path, masks: Path, spacing_mm: tuple[float, float, float] | None) -> Patient:
    images = slice_files(folder)
    if not images:
        raise InputError(f"{folder}: no slices ({', '.join(SLICE_SUFFIXES)}); add them or remove the folder")
    mask_folder = masks / folder.name
    labels = slice_files(mask_folder) if mask_folder.is_dir() else {}
    for missing in (stem for stem in images if stem not in labels):
        raise InputError(
            f"{images[missing]}: no mask {mask_folder / missing}.png; add one (all 0 where there is no lesion)"
        )
    for extra in (stem for stem in labels if stem not in images):
        raise InputError(f"{labels[extra]}: a mask without its image {folder / extra}.png; add or remove it")
    return Patient(
        id=folder.name,
        images=tuple(image.relative_to(root).as_posix() for image in images.values()),
        masks=tuple(labels[stem].relative_to(root).as_posix() for stem in images),
        spacing_mm=spacing_mm,
        hash=_slices_hash((stem, (image, labels[stem])) for stem, image in images.items()),
    )


def _slices_hash(slices: Iterable[tuple[str, tuple[Path, Path]]]) -> str:
    """Over each slice's name and the contents of its image and its mask."""
    digest = hashlib.sha256()
    for stem, files in slices:
        for file in files:
            content = _read(file)
            digest.update(f"{stem}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); restore it or check permissions") from error


def _cohort_hash(patients: tuple[Patient, ...]) -> str:
    digest = hashlib.sha256()
    for patient in patients:
        digest.update(f"{patient.id}\0{patient.hash}\0".encode())
    return digest.hexdigest()
