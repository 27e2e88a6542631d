"""Which scans are of one patient, so that no split divides them.

A scan is what a cohort calls a patient: one folder of slices. Scans of one person share a group's number, which tells
nothing of the person; a scan without one is its patient's only one.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

from data_prep.common.errors import InputError, first_line
from data_prep.common.wording import counted

OPTION = "--group-by"
EXAMPLE = "for id_0 and id_1 say '(.+)_[0-9]+'"


def add_group_option(parser: argparse.ArgumentParser, names: str, otherwise: str = "") -> None:
    """``--group-by``.

    Args:
        parser: gets the option.
        names: which names the pattern is held against.
        otherwise: what holds without the option.
    """
    parser.add_argument(
        OPTION, metavar="PATTERN",
        help=f"which scans are of one patient, so that no split divides them: a regular expression that fits {names}, "
             f"with the patient in brackets, such as '(.+)_[0-9]+' for id_0 and id_1{otherwise}",
    )  # fmt: skip


def group_pattern(text: str) -> re.Pattern[str]:
    """What ``--group-by`` says.

    Raises:
        InputError: no regular expression, or one without a group.
    """
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"{OPTION} {text}: no regular expression ({first_line(error)}); {EXAMPLE}") from error
    if not pattern.groups:
        raise InputError(f"{OPTION} {text}: nothing in brackets, so it does not say who the patient is; {EXAMPLE}")
    return pattern


def patients_by(pattern: re.Pattern[str], scans: Sequence[Sequence[str]]) -> list[str | None]:
    """The patient of each scan: what the first brackets hold in the first of its names that the pattern fits whole.

    Args:
        pattern: that of `group_pattern`.
        scans: the names that each scan goes by.

    Returns:
        A name a scan; None where the pattern fits none of its names.

    Raises:
        InputError: it fits no scan at all.
    """
    patients = [next(filter(None, (_patient(pattern, name) for name in names)), None) for names in scans]
    if not any(patients):
        raise InputError(
            f"{OPTION} {pattern.pattern}: fits none of {counted(len(scans), 'scan')}, such as {' or '.join(scans[0])}; "
            f"it is to fit a whole name; {EXAMPLE}"
        )
    return patients


def _patient(pattern: re.Pattern[str], name: str) -> str | None:
    fit = pattern.fullmatch(name)
    # Of alternatives such as '(a.)_.|(b.)-.', only the brackets of one take part.
    return next(filter(None, fit.groups()), None) if fit else None


def group_numbers(patient_of: Mapping[str, Hashable | None], number_of: Mapping[str, int]) -> dict[str, int]:
    """The group of each scan that shares its patient with another: the lowest number of the patient's scans.

    Args:
        patient_of: whose each scan is, by the scan's id; None where nobody says.
        number_of: the number of each scan.
    """
    scans: dict[Hashable, list[str]] = defaultdict(list)
    for scan, patient in patient_of.items():
        if patient is not None:
            scans[patient].append(scan)
    shared = [several for several in scans.values() if len(several) > 1]
    return {scan: min(number_of[other] for other in several) for several in shared for scan in several}


def in_words(persons: Iterable[Hashable]) -> str:
    """``5 scans of 3 patients`` where it is known whose each scan is; ``3 patients`` where each has one scan."""
    scans = list(persons)
    patients = len(set(scans))
    if patients == len(scans):
        return counted(patients, "patient")
    return f"{counted(len(scans), 'scan')} of {counted(patients, 'patient')}"
