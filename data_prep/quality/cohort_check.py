"""What is wrong with a cohort: every patient's findings, and those that only comparing patients shows."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.cohort.groups import in_words
from data_prep.cohort.layout import (
    IMAGE_FOLDERS,
    MANIFEST,
    MASK_FOLDERS,
    Cohort,
    is_patient,
    natural_key,
    part_folder,
    read_manifest,
    refuse_unfinished,
    scan_cohort,
)
from data_prep.cohort.pixels import GREY, pixels_of
from data_prep.common.errors import InputError
from data_prep.common.progress import in_processes
from data_prep.common.wording import counted
from data_prep.quality.contact_sheet import Tile, draw_tile
from data_prep.quality.findings import Finding, FindingKind, Fix, Severity
from data_prep.quality.orientation import COUCH_SURE, LEAST_PATIENTS, LIKELY_MARGIN, find_turns
from data_prep.quality.patient_check import PatientFiles, check_patient
from data_prep.quality.signatures import SignatureFile

IN_FRONT = "the couch lies in front of the head"


@dataclass(frozen=True)
class CohortReport:
    """All that was found, and the contact sheet's tiles."""

    patients: int
    size: str
    """How many patients, and how many scans where some have several, in words."""
    slices: int
    findings: tuple[Finding, ...]
    tiles: tuple[Tile, ...]
    """Of the patients that can be shown."""

    @property
    def has_errors(self) -> bool:
        """Whether the cohort cannot be used as it is."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)


@dataclass(frozen=True)
class _Kept:
    """What stays in memory of a patient: some ten kilobytes."""

    id: str
    slices: tuple[str, ...]
    hashes: tuple[str, ...]
    pictures_KPP: NDArray[np.float32] | None
    couch: float | None
    person: int | str
    """As of a `Patient`."""


def list_patients(root: Path) -> list[PatientFiles]:
    """Every patient with a folder of images or of masks, in order.

    Raises:
        InputError: ``root`` is no cohort, its manifest is none, or its import was not finished.
    """
    refuse_unfinished(root)
    images, masks = part_folder(root, IMAGE_FOLDERS), part_folder(root, MASK_FOLDERS)
    manifest = root / MANIFEST
    known = read_manifest(manifest) if manifest.exists() else None
    spacing = {patient.id: patient.spacing_mm for patient in known.patients} if known else {}
    pixels = pixels_of(known) if known else GREY
    names = {folder.name for part in (images, masks) for folder in part.iterdir() if is_patient(folder)}
    if not names:
        raise InputError(f"{images}: no patient folders; a folder a patient is expected")
    return [
        PatientFiles(
            name,
            images / name if (images / name).is_dir() else None,
            masks / name if (masks / name).is_dir() else None,
            spacing.get(name),
            pixels,
            has_ignored=known is not None and known.has_ignored,
        )
        for name in sorted(names, key=natural_key)
    ]


def check_cohort(root: Path, *, jobs: int) -> CohortReport:
    """Look at every file under ``root``; nothing is written.

    Raises:
        InputError: ``root`` is no cohort.
    """
    patients = list_patients(root)
    groups = _groups(root)
    findings: list[Finding] = []
    kept: list[_Kept] = []
    tiles: list[Tile] = []
    with SignatureFile() as stored:
        for _, report in in_processes(check_patient, patients, jobs=jobs, what="checking"):
            findings += report.findings
            if report.signatures_MF is not None:
                stored.add(len(kept), report.telling_M, report.signatures_MF)
            if report.shown_HW is not None:
                tiles.append(draw_tile(report.id, report.shown_HW, report.shown_mask_HW, report.shown))
            person = groups.get(report.id, report.id)
            kept.append(_Kept(report.id, report.slices, report.hashes, report.pictures_KPP, report.couch, person))
        findings += _shared(stored, kept)
    findings += _turned(kept)
    findings += _of_the_manifest(root, patients, findings)
    size = in_words(one.person for one in kept)
    return CohortReport(len(patients), size, sum(len(k.slices) for k in kept), tuple(findings), tuple(tiles))


def _groups(root: Path) -> dict[str, int]:
    """Of the patients that are scans of one person, as far as a manifest says."""
    if not (root / MANIFEST).exists():
        return {}
    return {
        patient.id: patient.group for patient in read_manifest(root / MANIFEST).patients if patient.group is not None
    }


def _shared(stored: SignatureFile, kept: list[_Kept]) -> list[Finding]:
    pairs: defaultdict[tuple[int, int], list[tuple[float, int, int]]] = defaultdict(list)
    for (one, place), (two, other), correlation in stored.shared():
        if kept[one].person == kept[two].person:
            continue  # no split divides them
        pairs[one, two].append((correlation, place, other))
    found = []
    for (one, two), slices in sorted(pairs.items()):
        best, place, other = max(slices)
        alike = len({p for _, p, _ in slices})
        same = len({p for _, p, o in slices if kept[one].hashes[p] == kept[two].hashes[o]})
        message = (
            f"{alike} slices look like slices of {kept[two].id}, {same} of them pixel by pixel (most alike: "
            f"{kept[two].slices[other]}, {best:.3f}); one person twice leaks between parts: keep one of the two, or, "
            "where they are scans of one patient, say so by --group-by of import or index"
        )
        severity = Severity.ERROR if same else Severity.WARNING
        found.append(Finding(severity, FindingKind.NEAR_DUPLICATE, kept[one].id, kept[one].slices[place], message))
    return found


def _turned(kept: list[_Kept]) -> list[Finding]:
    compared = [patient for patient in kept if patient.pictures_KPP is not None]
    if len(compared) < LEAST_PATIENTS:
        return _turned_by_couch(compared)
    pictures_NKPP = np.stack([patient.pictures_KPP for patient in compared if patient.pictures_KPP is not None])
    turns = find_turns(pictures_NKPP)
    upright = [patient for patient, turn in zip(compared, turns, strict=True) if turn.quarters == 0]
    found = _majority_turned(upright)
    for patient, turn in zip(compared, turns, strict=True):
        if turn.quarters == 0 or turn.margin < LIKELY_MARGIN:
            continue
        way = {1: "a quarter to the right", 2: "upside down or mirrored front to back", 3: "a quarter to the left"}
        sure = "sure" if turn.is_sure else "likely"
        message = (
            f"{sure}: {way[turn.quarters]} against most patients (correlation {turn.as_it_is:.3f} as it is, "
            f"{turn.correlation:.3f} turned)"
        )
        can_fix = turn.is_sure and turn.quarters == 2
        advice = "; --fix turns it by half" if can_fix else "; look at the contact sheet"
        fix = Fix.TURN if can_fix else None
        found.append(Finding(Severity.WARNING, FindingKind.TURNED, patient.id, "", message + advice, fix))
    return found


def _turned_by_couch(patients: list[_Kept]) -> list[Finding]:
    """Of a cohort too small to have a majority."""
    message = f"{IN_FRONT}; upside down, or mirrored front to back? Look at the contact sheet"
    found = [
        Finding(Severity.WARNING, FindingKind.TURNED, patient.id, "", message)
        for patient in patients
        if patient.couch is not None and patient.couch <= -COUCH_SURE
    ]
    silent = sum(patient.couch is None or abs(patient.couch) < COUCH_SURE for patient in patients)
    if silent or not patients:
        message = (
            f"it takes {LEAST_PATIENTS} patients to say who lies otherwise, and {silent} of {len(patients)} show no "
            "couch that tells which way up; look at the contact sheet"
        )
        found.append(Finding(Severity.NOTE, FindingKind.NOT_COMPARED, "", "", message))
    return found


def _majority_turned(upright: list[_Kept]) -> list[Finding]:
    """Whether those that lie alike, and are most, lie right."""
    sides = [patient.couch for patient in upright if patient.couch is not None and abs(patient.couch) >= COUCH_SURE]
    in_front = sum(side < 0 for side in sides)
    if not sides:
        message = (
            "orientation compared only within the cohort, as no couch shows which way up; look at the contact sheet, "
            "where faces are to be above"
        )
        return [Finding(Severity.NOTE, FindingKind.NOT_COMPARED, "", "", message)]
    if 2 * in_front <= len(sides):
        return []
    message = (
        f"most patients: {IN_FRONT} in {in_front} of {len(sides)} that show it, so the whole cohort seems upside down, "
        "or mirrored front to back; look at the contact sheet, and export it anew"
    )
    return [Finding(Severity.WARNING, FindingKind.TURNED, "", "", message)]


def _of_the_manifest(root: Path, patients: list[PatientFiles], found: list[Finding]) -> list[Finding]:
    missing = [patient.id for patient in patients if patient.spacing_mm is None]
    findings = []
    if missing:
        who = (
            "all patients"
            if len(missing) == len(patients)
            else f"{counted(len(missing), 'patient')}, {missing[0]} the first"
        )
        message = f"{who}: volumes are in voxels; `python -m data_prep index --spacing-mm` writes it down"
        findings.append(Finding(Severity.WARNING, FindingKind.NO_SPACING, "", "", message))
    if (root / MANIFEST).exists() and not any(finding.severity is Severity.ERROR for finding in found):
        known: Cohort = read_manifest(root / MANIFEST)
        if scan_cohort(root).hash != known.hash:
            message = "the files are not those that it describes; restore them, or delete it and index anew"
            findings.append(Finding(Severity.ERROR, FindingKind.MANIFEST, "", MANIFEST, message))
    return findings
