"""evaluation.json, read back."""

import json
from typing import Any

from data_prep.common.errors import InputError, first_line
from search.run.folder import RunFolder

EVALUATION_FORMAT = 2
"""Rises whenever evaluation.json gets figures that the summary cannot do without."""


def read_evaluation(run: RunFolder) -> dict[str, Any]:
    """The run's evaluation.

    Raises:
        InputError: it is damaged, or of another version.
    """
    try:
        evaluation: dict[str, Any] = json.loads(run.evaluation.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{run.evaluation}: damaged ({first_line(error)}); delete it to have it made again") from error
    if evaluation.get("format") != EVALUATION_FORMAT:
        raise InputError(
            f"{run.evaluation}: written by an earlier version, without some of today's figures; "
            "delete it and give the command that made the run again, which tests the trained models anew"
        )
    return evaluation
