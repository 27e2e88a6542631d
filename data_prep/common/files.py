"""Files that are either wholly there or not there at all."""

import csv
import errno
import fcntl
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any

from PIL import Image

from data_prep.common.errors import InputError

LOCK = ".lock"
IF_BUSY = "another command is changing it; wait for it, then the same command goes on"
"""Said of a cohort that is locked."""
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


def refuse_unwritable(folder: Path, remedy: str) -> None:
    """See that a folder is there and can be written, or could be made; nothing is written.

    Raises:
        InputError: it could not.
    """
    try:
        nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); {remedy}") from error
    if not nearest.is_dir():
        raise InputError(f"{folder}: cannot be written ({nearest} is a file); {remedy}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be written (no permission in {nearest}); {remedy}")


@contextmanager
def locked(folder: Path, *, if_busy: str, if_unwritable: str) -> Iterator[None]:
    """Keep every other command off a folder while the block runs; the lock, and a folder left empty, go away after it.

    Args:
        folder: it is made where it is missing.
        if_busy: what to say where another command holds it.
        if_unwritable: the remedy where it cannot be written.

    Raises:
        InputError: another command holds the folder, or it cannot be written.
    """
    try:
        handle = _lock(folder)
    except BlockingIOError as error:
        raise InputError(f"{folder}: {if_busy}") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); {if_unwritable}") from error
    with handle:
        try:
            yield
        finally:
            with suppress(OSError):  # of a disk that can no longer be written; a lock that nobody holds does no harm
                (folder / LOCK).unlink()
                if not any(folder.iterdir()):
                    folder.rmdir()


def _lock(folder: Path) -> IO[str]:
    """The open lock of a folder.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be written.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(handle, folder / LOCK):
                return handle
        except OSError:
            handle.close()
            raise
        handle.close()  # its last holder removed it between our opening and locking it


def _is_at(handle: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    The content reaches the disk before the name does, so a power cut leaves the old file or the new one.

    Raises:
        OSError: it cannot be written; it names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` in one step."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG in one step."""
    with replacing(path) as partial:
        partial.write_bytes(png_bytes(picture))


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as PNG, in memory, for Pillow does not say why it could not write a file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


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
