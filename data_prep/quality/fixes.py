"""Mending what is safe to mend, with a copy of whatever it changes.

<root>/.before-fix/<n>/images/...    the files that the n-th mending changed, as they were
<root>/.before-fix/<n>/unfinished    the patient that is being changed; there only after an interruption
"""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.cohort.layout import (
    IMAGE_FOLDERS,
    MANIFEST,
    MASK_FOLDERS,
    part_folder,
    read_manifest,
    scan_cohort,
    slice_files,
    told_of,
)
from data_prep.cohort.layout import write_manifest as write_cohort
from data_prep.cohort.pixels import pixels_of
from data_prep.cohort.store import read_mask, read_slice
from data_prep.common.errors import InputError
from data_prep.common.files import replacing, write_png, write_text_atomically
from data_prep.quality.findings import Finding, Fix
from data_prep.volumes.mask import MIDDLE
from data_prep.volumes.mask_picture import DEEP_MODES

BACKUP = ".before-fix"
UNFINISHED = "unfinished"
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Pillow's modes that a PNG holds as they are."""


@dataclass(frozen=True)
class Fixed:
    """What was mended."""

    files: int
    backup: Path


def apply_fixes(root: Path, findings: Sequence[Finding]) -> Fixed | None:
    """Mend the findings that have a fix, a patient at a time; None where there is none.

    Raises:
        InputError: a file cannot be read any more.
        OSError: the folder cannot be written to, or its disk is full.
    """
    by_patient: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.fix is not None:
            by_patient[finding.patient].append(finding)
    if not by_patient:
        return None
    backup = _next_backup(root)
    files = sum(_mend(root, backup, patient, found) for patient, found in by_patient.items())
    _renew_manifest(root, backup)
    return Fixed(files, backup)


def undo_unfinished(root: Path) -> None:
    """Put back the files of a patient whose mending was interrupted."""
    for marker in sorted((root / BACKUP).glob(f"*/{UNFINISHED}")):
        patient = marker.read_text(encoding="utf-8")
        for copy in (file for file in marker.parent.glob(f"*/{patient}/*") if file.is_file()):
            original = root / copy.relative_to(marker.parent)
            with replacing(original) as partial:
                shutil.copyfile(copy, partial)
            if original.suffix.lower() != ".png":
                original.with_suffix(".png").unlink(missing_ok=True)
        marker.unlink()


def _next_backup(root: Path) -> Path:
    taken = [int(folder.name) for folder in (root / BACKUP).glob("*") if folder.name.isdecimal()]
    folder = root / BACKUP / str(max(taken, default=0) + 1)
    folder.mkdir(parents=True)
    return folder


def _mend(root: Path, backup: Path, patient: str, findings: Sequence[Finding]) -> int:
    images, masks = (part_folder(root, names) / patient for names in (IMAGE_FOLDERS, MASK_FOLDERS))
    binary = {finding.slice for finding in findings if finding.fix is Fix.BINARISE}
    is_turned = any(finding.fix is Fix.TURN for finding in findings)
    mask_files = list(slice_files(masks).values()) if masks.is_dir() else []
    changed = [file for file in mask_files if is_turned or file.name in binary]
    changed += slice_files(images).values() if is_turned else []
    has_colours = _has_colours(root)
    for file in changed:
        copy = backup / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    write_text_atomically(backup / UNFINISHED, patient)
    for file in changed:
        if file.parent == masks:
            picture = _mask(file, is_blurred=file.name in binary)
        else:
            picture = Image.fromarray(_pixels(file, keeps_colours=has_colours))
        _rewrite(file, picture.transpose(Image.Transpose.ROTATE_180) if is_turned else picture)
    (backup / UNFINISHED).unlink()
    return len(changed)


def _has_colours(root: Path) -> bool:
    """Whether the colours of the cohort's slices are windows, none of which may get lost."""
    manifest = root / MANIFEST
    return manifest.exists() and bool(pixels_of(read_manifest(manifest)).colours)


def _mask(file: Path, *, is_blurred: bool) -> Image.Image:
    """A mask as it is, its palette and its transparency included; of a blurred one, what it says."""
    if is_blurred:
        return Image.fromarray((read_mask(file) >= MIDDLE) * np.uint8(255))
    with Image.open(file) as picture:
        return picture.copy() if picture.mode in PNG_MODES else Image.fromarray(read_mask(file, has_ignored=True))


def _pixels(file: Path, *, keeps_colours: bool) -> NDArray[Any]:
    """A slice at the depth that it has: of 16 bits that hold HU, no window of a moment may remain."""
    with Image.open(file) as picture:
        if keeps_colours and picture.mode == "RGB":
            return np.asarray(picture)
        if picture.mode not in DEEP_MODES:
            return read_slice(file)
        pixels_HW = np.asarray(picture)
    if pixels_HW.min() < 0 or pixels_HW.max() > np.iinfo(np.uint16).max:
        raise InputError(f"{file}: values beyond 16 bits, which no PNG holds; turn it by hand")
    return pixels_HW.astype(np.uint16)


def _rewrite(file: Path, picture: Image.Image) -> None:
    """As PNG, whatever it was: JPEG would blur a mask anew."""
    target = file.with_suffix(".png")
    write_png(target, picture)
    if target != file:
        file.unlink()


def _renew_manifest(root: Path, backup: Path) -> None:
    """Have ``cohort.json`` describe the mended files, with all else that it says."""
    manifest = root / MANIFEST
    if not manifest.exists():
        return
    known = read_manifest(manifest)
    shutil.copy2(manifest, backup / MANIFEST)
    try:
        found = scan_cohort(root)
    except InputError:
        return  # something else is wrong with the files; the check that follows says what
    write_cohort(known.model_copy(update={"patients": told_of(known, found), "hash": found.hash}), root)
