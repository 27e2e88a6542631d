"""Files that are either wholly there or not there at all."""

import csv
import errno
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

SPARE_BYTES = 32 * 2**20
"""Room that is left on a disk for what is small and must not fail: the study, tables, logs."""


def require_room(folder: Path, size: int) -> None:
    """Check that ``size`` bytes fit on the disk of ``folder`` before they are written.

    Raises:
        OSError: with the number ENOSPC, as if the disk were full already.
    """
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        needed = f"{(size + SPARE_BYTES) / 2**20:.0f} MiB needed, {free / 2**20:.0f} free"
        raise OSError(errno.ENOSPC, f"No space left on device: {needed}", str(folder))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    The content reaches the disk before the name does, so a power cut leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` in one step."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def table_text(kind: type[Any], rows: Iterable[Any]) -> str:
    """Rows as CSV, a column a field.

    Args:
        kind: the rows' dataclass.
        rows: any number, none included; None becomes an empty cell.
    """
    buffer = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(buffer, [f.name for f in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()


@contextmanager
def replacing_folder(path: Path, *, keep_existing: bool = True) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its name when the block ends without an error.

    Args:
        path: the folder.
        keep_existing: whether a folder that another process finished first is kept, as where both hold the same
            content; else the new one takes its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, former = (path.with_name(f".{path.name}.{os.getpid()}.{state}") for state in ("partial", "former"))
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had the same number
    partial.mkdir()
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        if not keep_existing and path.is_dir():
            path.replace(former)  # a full folder cannot be replaced in one step
        try:
            partial.replace(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())
