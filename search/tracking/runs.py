"""What is sent to W&B of a run: one W&B run a trial and one for the test, as plain data. Knows no W&B."""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lcnn.outcome import Outcome
from search.spec.space import SearchSpace
from search.study.ledger import TrialRecord, settings_of

EVALUATION = "evaluation"
METRIC = "val_dice"
"""Name of the validation Dice in W&B, in our runs and in a sweep's."""


@dataclass(frozen=True)
class Group:
    """What all W&B runs of one search share."""

    name: str
    """The run folder's name."""
    key: str
    """Short and unlike that of any other search, also of one with the same name."""
    facts: Mapping[str, Any]
    """Cohort, profile and the like: part of every configuration."""
    synthetic: bool | None
    """Whether the cohort is; None where the cohort is not there to be asked."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of every W&B run."""
        return ("synthetic",) if self.synthetic else ()


@dataclass(frozen=True)
class TrackedRun:
    """One W&B run."""

    id: str
    """The same whenever it is made from the same search."""
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    history: tuple[Mapping[str, float], ...]
    """A row an epoch, each with its ``epoch``."""
    summary: Mapping[str, Any]
    pictures: tuple[str, ...] = ()
    """Paths of PNG files for a media table."""
    failed: bool = False
    """Whether W&B is to show it as failed: where a machine was at fault, not the settings."""

    @property
    def digest(self) -> str:
        """Changes whenever anything of the run does, a picture's content included."""
        content = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for picture in self.pictures:
            content.update(Path(picture).read_bytes())
        return content.hexdigest()[:16]


def search_key(name: str, started: str) -> str:
    """A search's key, from its name and when it was first started."""
    return hashlib.sha256(f"{name} {started}".encode()).hexdigest()[:8]


def trial_run(group: Group, trial: TrialRecord, space: SearchSpace, folder: Path) -> TrackedRun:
    """A finished trial.

    Args:
        group: the search.
        trial: its record, which has the last word.
        space: turns its parameters into settings.
        folder: its folder, whose history holds the losses; they are left out where there is none.
    """
    assert trial.outcome is not None
    return TrackedRun(
        id=f"{group.name}-{group.key}-trial-{trial.number}",
        name=f"trial {trial.number}",
        group=group.name,
        job_type="trial",
        tags=(*group.tags, trial.outcome.value),
        config={**trial.params, "trial": trial.number, "settings": _settings(trial, space), **group.facts},
        history=tuple(history_rows(folder / "history.csv", trial.curve)),
        summary=_defined(
            {
                METRIC: trial.best,
                "best_epoch": trial.best_epoch,
                "epochs": len(trial.curve),
                "outcome": trial.outcome.value,
                "reason": trial.reason,
                "training_seconds": trial.seconds,
                "gpu_share": trial.gpu_share,
                "memory_bytes": trial.memory_bytes,
            }
        ),
        failed=trial.outcome == Outcome.CRASHED,
    )


def evaluation_run(
    group: Group, evaluation: Mapping[str, Any], winner: TrialRecord, space: SearchSpace, pictures: Sequence[Path]
) -> TrackedRun:
    """The test of the winner: the evaluation's figures under dotted names, and pictures of test patients."""
    return TrackedRun(
        id=f"{group.name}-{group.key}-{EVALUATION}",
        name=EVALUATION,
        group=group.name,
        job_type=EVALUATION,
        tags=group.tags,
        config={**winner.params, "trial": winner.number, "settings": _settings(winner, space), **group.facts},
        history=(),
        summary=_defined(dict(flat(evaluation))),
        pictures=tuple(str(path) for path in pictures),
    )


def history_rows(path: Path, curve: Sequence[float]) -> Iterator[dict[str, float]]:
    """A row an epoch: the figures of the training's history, and the study's validation Dice.

    A history may be an epoch ahead of the study, where a run was killed between the two; or absent, where a trial was
    trained on folds or its files lie in a storage.
    """
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    for epoch, value in enumerate(curve, start=1):
        figures = rows[epoch - 1] if epoch <= len(rows) else {}
        yield {**{key: float(text) for key, text in figures.items() if text}, "epoch": epoch, METRIC: value}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested figures under dotted names; lists, which a summary cannot show, are left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list):
            yield prefix + key, value


def _settings(trial: TrialRecord, space: SearchSpace) -> dict[str, Any] | None:
    """All settings that the trial trained with; None where it ended before they were drawn."""
    return None if space.fault(trial.params) else settings_of(trial, space).model_dump(mode="json")


def _defined(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
