"""Which patient of a source has which number in a cohort: kept without a name, and for good.

    <root>/.import/ids.json    salted hashes of the source's place and of its patients' names, with their numbers

Scans of one person are patients here, each with a number of its own.

A split, a list of test patients or a table of results names patients by id, so an id stays with its patient when the
source grows, and is not given again when it shrinks. A hash tells no name, but who holds a list of names can try each
of them with the salt that lies beside: ``.import`` is for reruns, and no part of a cohort that is passed on.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.cohort.layout import NOTES
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import write_text_atomically
from data_prep.sources.case import Case

REGISTER = "ids.json"


class Register(BaseModel):
    """The numbers that patients of one source have been given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    salt: str
    """Random, so that the hashes of two cohorts cannot be compared."""
    source: str
    """Hash of the source's place."""
    numbers: dict[str, int]
    """By the hash of a patient's name; those of patients that are gone stay."""

    def number_of(self, case: Case) -> int:
        """The number of a patient that has one."""
        return self.numbers[_hash(self.salt, own_name(case))]

    def with_numbers(self, cases: Sequence[Case]) -> "Register":
        """The same, with numbers after the last for those that have none, in the order given."""
        numbers = dict(self.numbers)
        keys = [_hash(self.salt, own_name(case)) for case in cases]
        taken = {numbers[key] for key in keys if key in numbers}
        for key, case in zip(keys, cases, strict=True):
            if key not in numbers:
                numbers[key] = self._earlier(case, taken) or max(numbers.values(), default=0) + 1
                taken.add(numbers[key])
        return self.model_copy(update={"numbers": numbers})

    def _earlier(self, case: Case, taken: Collection[int]) -> int | None:
        """The number that an earlier version gave the person, if no scan has it: it took one scan of each."""
        number = self.numbers.get(_hash(self.salt, case.patient)) if case.patient else None
        return None if number in taken else number


def patient_id(number: int) -> str:
    """``patient_0001`` for number 1."""
    return f"patient_{number:04d}"


def own_name(case: Case) -> str:
    """What a patient goes by from one import to the next.

    DICOM files name their patient and study, and those of BIDS their subject and session, wherever they lie; others go
    by the names of their files and folders.
    """
    return case.identity or case.name


def register_of(root: Path, source: Path) -> Register:
    """The register of the cohort in ``root``, or a new one.

    Args:
        root: the cohort's folder, whether it is there or not.
        source: what is to be imported into it.

    Raises:
        InputError: the cohort was made from another source, or its register is damaged or missing.
    """
    path = root / NOTES / REGISTER
    place = str(source.resolve())
    if not path.exists():
        if any((root / NOTES).glob("patient_*.json")):
            raise InputError(f"{path}: missing, so whose ids these are is not known; remove {root} and import it anew")
        salt = secrets.token_hex(16)
        return Register(salt=salt, source=_hash(salt, place), numbers={})
    try:
        known = Register.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: damaged ({first_line(error)}); remove {root} and import it anew") from error
    if known.source != _hash(known.salt, place):
        raise InputError(f"{root}: was made from another source than {source}; remove it, or name another folder")
    return known


def write_register(root: Path, register: Register) -> None:
    """Keep it; before the first patient that it names is written."""
    write_text_atomically(root / NOTES / REGISTER, register.model_dump_json(indent=1) + "\n")


def _hash(salt: str, text: str) -> str:
    return hmac.new(bytes.fromhex(salt), text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
