"""Files of trainings on a storage that all nodes of a cluster reach.

A training works in a scratch folder of its node. `mirrored` brings its files to the storage after every epoch,
before the epoch is passed on, and fetches them when the training is taken up again, on whatever node.
"""

import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from pyarrow import ArrowInvalid
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from data_prep.common.errors import InputError, first_line
from data_prep.common.files import refuse_unwritable
from search.run.database import redact

FILES = ("best.pt", "last.pt", "history.csv")
"""What a training keeps, in the order in which it is brought to the storage: as `lcnn.training.fit` writes it."""

Training = Generator[Any, None, Any]


class CheckpointStore:
    """Files of trainings on a storage that all nodes reach; a file is there wholly or not at all.

    Args:
        location: a folder, or a URL as pyarrow reads it (s3://bucket/folder, gs://, file://).

    Raises:
        InputError: the location cannot be understood.
    """

    def __init__(self, location: str) -> None:
        if redact(location) != location or re.search(r"://[^/?]*@", location):
            raise InputError(
                f"storage.checkpoints: {redact(location)}: keys do not belong into a URL; "
                "give them by the environment, such as AWS_ACCESS_KEY_ID"
            )
        self._location = location
        self._files, self._root = _filesystem(location)

    def push(self, file: Path, key: str) -> None:
        """Bring one file to the storage under ``key``; whoever reads meanwhile sees the former one.

        Raises:
            OSError: the storage does not answer; it holds what it held before.
        """
        target = f"{self._root}/{key}"
        # A copy that breaks off leaves a name that nobody reads; object stores too move in one step.
        partial = f"{target}.{uuid4().hex}.partial"
        self._files.create_dir(target.rpartition("/")[0], recursive=True)
        copy_files(str(file), partial, source_filesystem=LocalFileSystem(), destination_filesystem=self._files)
        self._files.move(partial, target)

    def files(self, key: str) -> list[str]:
        """Keys of all files below ``key``, at any depth.

        Raises:
            OSError: the storage does not answer.
        """
        found = self._files.get_file_info(
            FileSelector(f"{self._root}/{key.rstrip('/')}", allow_not_found=True, recursive=True)
        )
        return [file.path.removeprefix(f"{self._root}/") for file in found if file.type == FileType.File]

    def remove(self, key: str) -> None:
        """Delete the file ``key``.

        Raises:
            OSError: the storage does not answer, or has no such file.
        """
        self._files.delete_file(f"{self._root}/{key}")

    def fetch(self, key: str, folder: Path, names: Sequence[str] = FILES) -> None:
        """Bring these files of the training ``key`` into ``folder``, as far as the storage has them.

        Raises:
            OSError: the storage does not answer.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            source = f"{self._root}/{key}/{name}"
            if self._files.get_file_info(source).type == FileType.File:
                partial = folder / f".{name}.{os.getpid()}.partial"
                copy_files(
                    source, str(partial), source_filesystem=self._files, destination_filesystem=LocalFileSystem()
                )
                partial.replace(folder / name)

    def check_is_free(self, run: str, *, tries: bool = True) -> None:
        """Refuse a new run whose checkpoints would mix with another run's.

        Args:
            run: its name.
            tries: also writes to the storage, which tells more than looking at it.

        Raises:
            InputError: there is something under the run's name, or the storage cannot be written.
        """
        if isinstance(self._files, LocalFileSystem):
            remedy = "see that it exists and that this machine may write there (storage.checkpoints)"
            refuse_unwritable(Path(self._root), remedy)
        try:
            if tries:
                self._files.create_dir(f"{self._root}/{run}", recursive=True)
            found = self._files.get_file_info(FileSelector(f"{self._root}/{run}", allow_not_found=True))
        except OSError as error:
            raise InputError(
                f"storage.checkpoints: {self._location}: cannot be written ({first_line(error)}); "
                "see that it exists and that this machine may write there"
            ) from error
        if found:
            raise InputError(
                f"storage.checkpoints: {self._location} already holds {run}, which is not of this run folder; "
                "use --name, or restore the folder it belongs to"
            )


def _filesystem(location: str) -> tuple[FileSystem, str]:
    try:
        files, root = FileSystem.from_uri(location if "://" in location else str(Path(location).expanduser().resolve()))
    except (ArrowInvalid, OSError) as error:
        raise InputError(
            f"storage.checkpoints: {location}: not a storage ({first_line(error)}); give a folder, s3:// or gs://"
        ) from error
    return files, root.rstrip("/")


def mirrored(store: CheckpointStore, key: str, begin: Callable[[Path], Training]) -> Training:
    """A training that lives in a scratch folder and is kept in the storage.

    Args:
        store: the storage.
        key: the training's name there.
        begin: makes the training, given its folder; it keeps its state there before it yields an epoch.

    Yields:
        The training's epochs, each once the storage holds it.

    Returns:
        The training's outcome.
    """
    with TemporaryDirectory(prefix="lcnn-training-") as scratch:
        folder = Path(scratch)
        store.fetch(key, folder)
        kept = {name: _stamp(folder / name) for name in FILES}
        with closing(begin(folder)) as training:
            while True:
                try:
                    epoch = next(training)
                except StopIteration as end:
                    return end.value
                for name in FILES:
                    stamp = _stamp(folder / name)
                    if stamp != kept[name]:
                        store.push(folder / name, f"{key}/{name}")
                        kept[name] = stamp
                yield epoch


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What tells a file from the one that stood there before; None where there is none."""
    if not file.exists():
        return None
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
