"""How far a run has come: what each stage has left for the next, kept in course.json.

A stage's record says for what it was made. Where that has changed, by more trials or other settings of the
confirmation, the record counts for nothing and the stage is done again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.common.errors import InputError, first_line
from data_prep.common.files import write_text_atomically


class Course:
    """The records of a run's stages.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def record(self, stage: str, made_for: Mapping[str, Any], left: Mapping[str, Any]) -> None:
        """Keep what a stage was done for, and what it has left."""
        records = {**self._read(), stage: {"for": made_for, "left": left}}
        write_text_atomically(self._path, json.dumps(records, indent=1, allow_nan=False) + "\n")

    def left(self, stage: str, made_for: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a stage has left for this; None where it was not done for it.

        Raises:
            InputError: the file is damaged.
        """
        record = self._read().get(stage)
        if record is None or record["for"] != json.loads(json.dumps(made_for)):
            return None
        left: dict[str, Any] = record["left"]
        return left

    def _read(self) -> dict[str, Any]:
        try:
            records: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        except ValueError as error:
            raise InputError(
                f"{self._path}: damaged ({first_line(error)}); delete it, and what it says is found out anew"
            ) from error
        return records
