"""What is wrong with one patient's files, and what is kept of them to compare patients.

Legend: Z slices, H rows, W columns, M slices that show enough head, K mean pictures, P pixels of their side.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.cohort.duplicates import BRIGHT, telling_slices
from data_prep.cohort.layout import slice_files
from data_prep.cohort.pixels import GREY, Pixels
from data_prep.cohort.store import read_mask, read_slice
from data_prep.common.errors import InputError
from data_prep.quality.findings import Finding, FindingKind, Fix, Severity
from data_prep.quality.orientation import (
    LIKELY_REVERSED,
    SURE_REVERSED,
    couch_side,
    is_shuffled,
    mean_pictures,
    upward_score,
)
from data_prep.quality.signatures import signatures
from data_prep.volumes.checks import LEAST_SIDE
from data_prep.volumes.mask import IGNORED_GREY, NoMask, expected_values, is_blurred, is_mask

BLANK_HEAD = 0.002
"""A slice with less head than this share of the picture is blank."""
IMPLAUSIBLE_MM = {"slice": (0.3, 12.0), "row": (0.15, 2.0), "column": (0.15, 2.0)}
"""Ranges that head CT keeps within, thumbnails of it included."""
OUTSIDE_WARNING, OUTSIDE_ERROR = 0.05, 0.5
"""Shares of a patient's lesion outside the head."""


@dataclass(frozen=True)
class PatientFiles:
    """Where a patient's files lie; None where there is no folder."""

    id: str
    images: Path | None
    masks: Path | None
    spacing_mm: tuple[float, float, float] | None
    pixels: Pixels = GREY
    """What the slices hold; they are looked at in their first window."""
    has_ignored: bool = False
    """Whether the manifest says that masks hold 128 as well."""


@dataclass(frozen=True)
class PatientReport:
    """What was found, and what patients are compared by."""

    id: str
    findings: tuple[Finding, ...]
    slices: tuple[str, ...] = ()
    """File names in order; empty where the patient cannot be compared."""
    hashes: tuple[str, ...] = ()
    """Of the slices' pixels."""
    telling_M: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    signatures_MF: NDArray[np.float16] | None = None
    pictures_KPP: NDArray[np.float32] | None = None
    couch: float | None = None
    """As `data_prep.quality.orientation.couch_side`."""
    shown_HW: NDArray[np.uint8] | None = None
    """The slice for the contact sheet: the one with most lesion, else the middle one."""
    shown_mask_HW: NDArray[np.bool_] | None = None
    shown: int = 0
    """Its place."""


def check_patient(files: PatientFiles) -> PatientReport:
    """Look at every file of a patient; nothing is written."""
    findings = _Findings(files.id)
    images = _listed(files.images, findings)
    masks = _listed(files.masks, findings)
    _check_pairs(files, images, masks, findings)
    _check_spacing(files, findings)
    pictures = _read(images, findings, lambda file: read_slice(file, files.pixels))
    lesions = _read(masks, findings, lambda file: read_mask(file, has_ignored=files.has_ignored))
    for stem, mask_HW in lesions.items():
        _check_size(masks[stem], mask_HW, pictures.get(stem), findings)
        _check_values(masks[stem], mask_HW, files.has_ignored, findings)
    if len(pictures) < len(images) or not pictures:
        return PatientReport(files.id, findings.all())
    sizes = {picture.shape for picture in pictures.values()}
    if len(sizes) > 1:
        listed = ", ".join(f"{columns}x{rows}" for rows, columns in sorted(sizes))
        findings.error(FindingKind.SIZES_DIFFER, f"slices of {listed} pixels; export the series again at one size")
        return PatientReport(files.id, findings.all())
    image_ZHW = np.stack(list(pictures.values()))
    pictures.clear()
    names = tuple(images[stem].name for stem in images)
    if min(image_ZHW.shape[1:]) < LEAST_SIDE:
        findings.error(FindingKind.TOO_SMALL, f"{image_ZHW.shape[2]}x{image_ZHW.shape[1]} pixels; export at full size")
        return PatientReport(files.id, findings.all())
    masks_Z = [_fitting(lesions.get(stem), image_ZHW.shape[1:], files.has_ignored) for stem in images]
    hashes = tuple(hashlib.sha256(picture.tobytes()).hexdigest() for picture in image_ZHW)
    area_Z = (image_ZHW >= BRIGHT).mean(axis=(1, 2))
    _check_repeats(names, hashes, area_Z, findings)
    _check_order(area_Z[area_Z >= BLANK_HEAD], findings)
    _check_lesion(image_ZHW, masks_Z, findings)
    telling_M = telling_slices(image_ZHW)
    sizes_Z = [0 if mask is None else int(mask.sum()) for mask in masks_Z]
    shown = int(np.argmax(sizes_Z)) if any(sizes_Z) else len(names) // 2
    return PatientReport(
        files.id,
        findings.all(),
        slices=names,
        hashes=hashes,
        telling_M=telling_M,
        signatures_MF=signatures(image_ZHW[telling_M]),
        pictures_KPP=mean_pictures(image_ZHW) if len(telling_M) else None,
        couch=couch_side(image_ZHW) if len(telling_M) else None,
        shown_HW=image_ZHW[shown],
        shown_mask_HW=masks_Z[shown],
        shown=shown,
    )


class _Findings:
    """Findings of one patient, as they come."""

    def __init__(self, patient: str) -> None:
        self._patient = patient
        self._found: list[Finding] = []

    def add(self, severity: Severity, kind: FindingKind, detail: str, file: str = "", fix: Fix | None = None) -> None:
        self._found.append(Finding(severity, kind, self._patient, file, detail, fix))

    def error(self, kind: FindingKind, detail: str, file: str = "", fix: Fix | None = None) -> None:
        self.add(Severity.ERROR, kind, detail, file, fix)

    def all(self) -> tuple[Finding, ...]:
        return tuple(self._found)


def _listed(folder: Path | None, findings: _Findings) -> dict[str, Path]:
    if folder is None:
        return {}
    try:
        return slice_files(folder)
    except InputError as error:
        findings.error(FindingKind.UNREADABLE, _without_path(error, folder))
    except OSError as error:
        findings.error(FindingKind.UNREADABLE, f"the folder cannot be listed ({error.strerror}); check its permissions")
    return {}


def _check_pairs(files: PatientFiles, images: dict[str, Path], masks: dict[str, Path], findings: _Findings) -> None:
    if files.images is not None and not images:
        findings.error(
            FindingKind.NO_SLICES,
            "no slices in its folder; add them, remove the folder, or use `import` for other formats",
        )
    for stem in (stem for stem in images if stem not in masks):
        # An empty mask says "no lesion here", which nobody has said; so it is not made up.
        findings.error(FindingKind.NO_MASK, "no mask; add one, all 0 if a person saw no lesion", images[stem].name)
    for stem in (stem for stem in masks if stem not in images):
        findings.error(FindingKind.NO_IMAGE, "no slice of this name; add or remove it", masks[stem].name)


def _check_spacing(files: PatientFiles, findings: _Findings) -> None:
    if files.spacing_mm is None:
        return
    for (axis, (low, high)), distance in zip(IMPLAUSIBLE_MM.items(), files.spacing_mm, strict=True):
        if not low <= distance <= high:
            findings.add(
                Severity.WARNING,
                FindingKind.ODD_SPACING,
                f"{distance:g} mm between {axis}s, expected {low:g} to {high:g}; correct cohort.json",
            )


def _read(
    files: Mapping[str, Path], findings: _Findings, read: Callable[[Path], NDArray[np.uint8]]
) -> dict[str, NDArray[np.uint8]]:
    taken = {}
    for stem, file in files.items():
        try:
            taken[stem] = read(file)
        except InputError as error:
            kind = FindingKind.NOT_BINARY if isinstance(error, NoMask) else FindingKind.UNREADABLE
            findings.error(kind, _without_path(error, file), file.name)
    return taken


def _without_path(error: InputError, place: Path) -> str:
    return str(error).removeprefix(f"{place}: ").replace(f"{place.parent}/", "")


def _check_size(file: Path, mask_HW: NDArray[np.uint8], image: NDArray[np.uint8] | None, findings: _Findings) -> None:
    if image is not None and mask_HW.shape != image.shape:
        sizes = f"mask {mask_HW.shape[1]}x{mask_HW.shape[0]}, slice {image.shape[1]}x{image.shape[0]} pixels"
        findings.error(FindingKind.SIZES_DIFFER, f"{sizes}; export the mask on the slice's grid", file.name)


def _check_values(file: Path, mask_HW: NDArray[np.uint8], has_ignored: bool, findings: _Findings) -> None:
    counts = np.bincount(mask_HW.ravel(), minlength=256)
    values = np.flatnonzero(counts).tolist()
    if is_mask(values, has_ignored=has_ignored):
        return
    shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
    if has_ignored:  # a blur of three values cannot be distinguished from the third
        findings.error(
            FindingKind.NOT_BINARY, f"values {shown}; write the lesion as 255, what is ignored as 128", file.name
        )
    elif is_mask(values, has_ignored=True):
        findings.error(
            FindingKind.NOT_BINARY, f"values {shown}; {expected_values(values, has_ignored=False)}", file.name
        )
    elif is_blurred(counts):
        findings.error(
            FindingKind.NOT_BINARY, f"values {shown}, blurred; --fix splits them at 128", file.name, Fix.BINARISE
        )
    else:
        findings.error(
            FindingKind.NOT_BINARY, f"values {shown}: labels? write the lesion as 255, the rest as 0", file.name
        )


def _fitting(mask: NDArray[np.uint8] | None, shape: tuple[int, ...], has_ignored: bool) -> NDArray[np.bool_] | None:
    """A mask's lesion as a yes or no; None where it is missing, of another size, or empty."""
    if mask is None or mask.shape != shape or not mask.any():
        return None
    if mask.max() < IGNORED_GREY:
        return mask > 0
    return mask > (IGNORED_GREY if has_ignored else IGNORED_GREY - 1)


def _check_repeats(
    names: tuple[str, ...], hashes: tuple[str, ...], area_Z: NDArray[np.float64], findings: _Findings
) -> None:
    blank = [name for name, area in zip(names, area_Z, strict=True) if area < BLANK_HEAD]
    if blank:
        findings.add(Severity.NOTE, FindingKind.BLANK, f"{len(blank)} of {len(names)} slices show no head", blank[0])
    places: defaultdict[str, list[str]] = defaultdict(list)
    for name, digest in zip(names, hashes, strict=True):
        if name not in blank:
            places[digest].append(name)
    for first, *others in places.values():
        if others:
            message = f"the same pixels as {', '.join(others)}; keep one, with its mask"
            findings.add(Severity.WARNING, FindingKind.DUPLICATE, message, first)


def _check_order(area_Z: NDArray[np.float64], findings: _Findings) -> None:
    if is_shuffled(area_Z):
        message = "the head's area jumps from slice to slice; number the slices from the skull base upward"
        findings.add(Severity.WARNING, FindingKind.SHUFFLED, message)
        return
    score = upward_score(area_Z)
    if score is not None and score <= LIKELY_REVERSED:
        sure = "sure" if score <= SURE_REVERSED else "likely"
        message = (
            f"{sure}: the head narrows toward the first slice (score {score:.2f}); number them from the skull base"
        )
        findings.add(Severity.WARNING, FindingKind.REVERSED, message)


def _check_lesion(image_ZHW: NDArray[np.uint8], masks_Z: list[NDArray[np.bool_] | None], findings: _Findings) -> None:
    inside = total = 0
    for picture_HW, mask_HW in zip(image_ZHW, masks_Z, strict=True):
        if mask_HW is None:
            continue
        head_HW = ndimage.binary_fill_holes(ndimage.binary_dilation(picture_HW >= BRIGHT, iterations=2))
        inside += int((mask_HW & head_HW).sum())
        total += int(mask_HW.sum())
    if total == 0:
        findings.add(Severity.NOTE, FindingKind.NO_LESION, "none of its masks holds lesion")
    elif (share := 1 - inside / total) > OUTSIDE_WARNING:
        severity = Severity.ERROR if share > OUTSIDE_ERROR else Severity.WARNING
        message = f"{share:.0%} of the lesion lies outside; see that masks and slices belong together"
        findings.add(severity, FindingKind.LESION_OUTSIDE, message)
