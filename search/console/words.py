"""Trials, settings and durations in words."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path

from lcnn.outcome import Outcome
from search.spec.space import Value
from search.study.ledger import TrialRecord


def trial_line(trial: TrialRecord, unit: str = "epochs") -> str:
    """A trial in one line: number, how good it was, after how many steps, how it ended, settings."""
    score = f"Dice {trial.best:.3f}" if trial.best is not None else "no value"
    end = trial.outcome or "unfinished"
    if trial.outcome not in (None, Outcome.COMPLETED) and trial.reason:
        end = f"{end} ({trial.reason})"
    steps = len(trial.curve)
    noun = unit.removesuffix("s") if steps == 1 else unit
    return f"trial {trial.number:>3}  {score}  {steps:>2} {noun:<{len(unit)}}  {end:<10} {short_params(trial.params)}"


CONSOLE_SCRIPT = "lcnn-search"
"""The search as an installed command, as pyproject.toml names it."""


def search_command() -> str:
    """The search as this process was started: the installed command, or the file of a checkout."""
    return CONSOLE_SCRIPT if Path(sys.argv[0]).stem == CONSOLE_SCRIPT else "python run_search.py"


def short_params(params: Mapping[str, Value]) -> str:
    """Parameters for people: the last part of each name, numbers with three digits."""
    texts = []
    for name, value in params.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        texts.append(f"{name.rsplit('.', 1)[-1]}={shown}")
    return " ".join(texts)


def minutes(seconds: float) -> str:
    """A duration for people."""
    if math.isinf(seconds):
        return "without end in sight"
    if seconds < 90:
        return f"{round(seconds)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
