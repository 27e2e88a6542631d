"""Which DICOM series a person chose: a number where there is one patient, a file of them where there are several."""

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.common.errors import InputError
from data_prep.sources.case import Case

NUMBER = re.compile(r"\d{1,6}")


def with_series(cases: Sequence[Case], chosen: str) -> list[Case]:
    """Patients with the series that were chosen for them; the others keep to the rules.

    Args:
        cases: all patients.
        chosen: a series' number, or the path of a CSV file with a patient's name and a number a line.

    Raises:
        InputError: a number for several patients, or a file that does not name patients and numbers.
    """
    if NUMBER.fullmatch(chosen):
        if len(cases) != 1:
            raise InputError(
                f"--series {chosen}: one number is for one scan, not {len(cases)}; give a file with a scan's name "
                "(--dry-run --ids FILE writes them) and a number a line"
            )
        return [replace(cases[0], series=int(chosen))]
    numbers = _numbers(Path(chosen), {case.name for case in cases})
    return [replace(case, series=numbers.get(case.name)) for case in cases]


def _numbers(path: Path, names: set[str]) -> dict[str, int]:
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--series {path}: neither a number nor a file that can be read as text") from error
    numbers: dict[str, int] = {}
    for line, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != 2 or not NUMBER.fullmatch(cells[1]):
            raise InputError(f"--series {path}: line {line} is not a patient's name, a comma and a number; correct it")
        if cells[0] not in names or cells[0] in numbers:
            fault = "is no patient that is imported" if cells[0] not in names else "names a patient again"
            raise InputError(f"--series {path}: line {line} {fault}; correct or remove it")
        numbers[cells[0]] = int(cells[1])
    return numbers
