"""Whose a scan is, where a person says it by a pattern over names."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data_prep.cohort.groups import patients_by
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.naming.tree import bare_stem


def with_patients(cases: Sequence[Case], root: Path, pattern: re.Pattern[str]) -> list[Case]:
    """Scans with the patient that a pattern finds in one of their names; the others keep theirs.

    Args:
        cases: all scans.
        root: the source.
        pattern: that of `data_prep.cohort.groups.group_pattern`.

    Raises:
        InputError: it fits no scan.
    """
    patients = patients_by(pattern, [names_of(case, root) for case in cases])
    return [replace(case, patient=patient or case.patient) for case, patient in zip(cases, patients, strict=True)]


def names_of(case: Case, root: Path) -> list[str]:
    """What a scan goes by: its name as an import tells it, and before, of a volume, the name and path of its file.

    Paths are from the root, without the file's ending.
    """
    paths = [PurePosixPath(case.name)]
    if case.kind in (SourceFormat.NIFTI, SourceFormat.NPZ) and len(case.images) == 1:
        file = PurePosixPath(case.images[0].relative_to(root).as_posix())
        paths.insert(0, file.with_name(bare_stem(file.name) or file.name))
    return list(dict.fromkeys(name for path in paths for name in (path.name, str(path))))
