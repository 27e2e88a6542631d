"""What a check finds in a cohort, and as a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from data_prep.common.files import table_text, write_text_atomically


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """The cohort cannot be used as it is, or its figures would be wrong."""
    WARNING = "warning"
    """To be looked at."""
    NOTE = "note"


class FindingKind(StrEnum):
    """What can be found."""

    UNREADABLE = "unreadable file"
    NO_SLICES = "patient without slices"
    NO_MASK = "slice without mask"
    NO_IMAGE = "mask without slice"
    SIZES_DIFFER = "sizes differ"
    TOO_SMALL = "picture too small"
    NOT_BINARY = "mask not binary"
    NO_LESION = "patient without lesion"
    BLANK = "blank slices"
    DUPLICATE = "slice twice in a patient"
    NEAR_DUPLICATE = "slices shared by two patients"
    TURNED = "patient turned"
    REVERSED = "slices from the top downward"
    SHUFFLED = "slices out of order"
    LESION_OUTSIDE = "lesion outside the head"
    NO_SPACING = "spacing not known"
    ODD_SPACING = "spacing implausible"
    MANIFEST = "cohort.json out of date"
    NOT_COMPARED = "orientation not compared"


class Fix(StrEnum):
    """What ``--fix`` can do about a finding."""

    BINARISE = "binarise"
    TURN = "turn by half"


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    severity: Severity
    kind: FindingKind
    patient: str
    """Empty where it concerns the cohort."""
    slice: str
    """File name; empty where it concerns the patient."""
    detail: str
    """What was seen, how sure, and the remedy."""
    fix: Fix | None = None
    """None where a person has to decide."""


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Write them as CSV, a row each."""
    write_text_atomically(path, table_text(Finding, findings))
