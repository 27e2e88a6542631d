"""The log of test openings: a line for every time the test patients were read, in a chain that cannot lose a link.

Each line ends with a hash over the whole file up to and including it, and an evaluation names the hash of the opening
that it stands on. So a line that was edited, moved or deleted is found at the next reading. Whoever means to deceive
can still write a new chain and new evaluations; the log is against accidents and afterthoughts.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from data_prep.common.errors import InputError, first_line
from data_prep.common.files import write_text_atomically

MARK = " #"
"""Between what a line says and its hash."""
HASH_LENGTH = 16


def read_openings(log: Path) -> list[str]:
    """The hashes of the openings in order; none where the test patients were never read.

    Lines of earlier versions, which had no hashes, may come first; the first hash covers them.

    Raises:
        InputError: a line was edited or deleted, or the file cannot be read.
    """
    hashes: list[str] = []
    before = ""
    for number, line in enumerate(_text(log).splitlines(), start=1):
        said, mark, found = line.rpartition(MARK)
        if mark and found == _hash(before + said):
            hashes.append(found)
        elif mark or hashes:
            raise InputError(
                f"{log}: line {number} is not as it was written, or one before it is gone; "
                "restore the log from a copy of the run"
            )
        before += line + "\n"
    return hashes


def add_opening(log: Path, reason: str) -> None:
    """Note that the test patients are about to be read; call before reading them.

    Raises:
        InputError: the log was tampered with.
    """
    read_openings(log)
    said = _text(log) + f"{datetime.now(UTC).isoformat(timespec='seconds')} {reason}"
    # Written anew as a whole: an interruption leaves no half line, which would look like tampering.
    write_text_atomically(log, f"{said}{MARK}{_hash(said)}\n")


def check_openings(log: Path, evaluations: Iterable[Path]) -> None:
    """See that the log is whole and holds the opening of every evaluation.

    Raises:
        InputError: a line is missing or was edited, or an evaluation is damaged.
    """
    hashes = read_openings(log)
    for evaluation in evaluations:
        opening = _opening_of(evaluation)
        if opening is not None and opening not in hashes:
            raise InputError(
                f"{log}: the line of the test opening #{opening}, on which {evaluation} stands, is gone; "
                "restore the log from a copy of the run"
            )


def _opening_of(evaluation: Path) -> str | None:
    """None for an evaluation of an earlier version."""
    try:
        content = json.loads(evaluation.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{evaluation}: damaged ({first_line(error)}); delete it to have it made again") from error
    return content.get("opening") if isinstance(content, dict) else None


def _text(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8") if log.exists() else ""
    except ValueError as error:
        raise InputError(f"{log}: not text ({first_line(error)}); restore it from a copy of the run") from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]
