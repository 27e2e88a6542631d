"""One folder a run: where its files lie, who may write to it, and whether it is still the same search."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from data_prep.common.errors import InputError, first_line
from data_prep.common.files import locked, refuse_unwritable, write_text_atomically
from lcnn.settings_file import read_yaml
from search.run.database import redact
from search.run.openings import add_opening, check_openings, read_openings
from search.spec.settings import Spec, validate_spec

PACKAGES = ("torch", "torchvision", "ray", "optuna", "monai", "numpy", "scipy", "pandas", "pillow")
IF_UNWRITABLE = "make it writable, or choose other --results"
RESUMABLE_KEYS = ("budget", "confirm", "resources", "exports")
"""Sections that may change between two sessions of one search: they decide how long, how wide and how sure, and what
is made of the winner, not what is searched."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run; nothing is created by naming them."""

    root: Path

    @property
    def spec(self) -> Path:
        """The resolved space file."""
        return self.root / "spec.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine and commit of every session."""
        return self.root / "environment.json"

    @property
    def split(self) -> Path:
        """The locked patient split."""
        return self.root / "split.json"

    @property
    def study(self) -> Path:
        """The Optuna study."""
        return self.root / "study.db"

    @property
    def memory(self) -> Path:
        """What trainings were seen to take, and on which device."""
        return self.root / "memory.json"

    @property
    def course(self) -> Path:
        """What each stage has left for the next."""
        return self.root / "course.json"

    @property
    def trials(self) -> Path:
        """A folder a trial: last.pt, best.pt, history.csv."""
        return self.root / "trials"

    @property
    def trials_table(self) -> Path:
        """All trials as CSV."""
        return self.root / "trials.csv"

    @property
    def folds(self) -> Path:
        """Which patients validate in which fold, where trials are measured on folds."""
        return self.root / "folds.json"

    @property
    def pareto(self) -> Path:
        """The Pareto front as CSV, where a search measures a cost against Dice."""
        return self.root / "pareto.csv"

    @property
    def confirm(self) -> Path:
        """A folder a confirming training, named by trial and seed: last.pt, history.csv."""
        return self.root / "confirm"

    @property
    def confirmation(self) -> Path:
        """The confirming trainings as CSV."""
        return self.root / "confirm.csv"

    @property
    def final(self) -> Path:
        """A folder per finally trained trial: last.pt, history.csv."""
        return self.root / "final"

    @property
    def tensorboard(self) -> Path:
        """Event files for TensorBoard, in the folders' own order."""
        return self.root / "tensorboard"

    @property
    def replays(self) -> Path:
        """A JSON file per replayed trial: what differs from its record."""
        return self.root / "replays"

    @property
    def model(self) -> Path:
        """The winner, whole or absent: weights, settings, card, exports, bundle."""
        return self.root / "model"

    @property
    def evaluation(self) -> Path:
        """Test figures with intervals; the last file a run writes."""
        return self.root / "evaluation.json"

    @property
    def patients(self) -> Path:
        """Test figures patient by patient."""
        return self.root / "patients.csv"

    @property
    def overlays(self) -> Path:
        """Pictures of test patients."""
        return self.root / "overlays"

    @property
    def slices(self) -> Path:
        """Slices of all test patients with truth and prediction, a PNG each; see `lcnn.scoring.slices`."""
        return self.root / "slices"

    @property
    def report(self) -> Path:
        """The run as one page."""
        return self.root / "report.html"

    @property
    def test_openings(self) -> Path:
        """A line for every time the test patients were read, chained by hashes."""
        return self.root / "test_openings.log"

    @property
    def near_duplicates(self) -> Path:
        """Slices that look alike though their patients are in different parts, as CSV."""
        return self.root / "near_duplicates.csv"

    @property
    def study_url(self) -> str:
        """The study's database."""
        return f"sqlite:///{self.study.resolve()}"

    def read_spec(self) -> Spec:
        """The spec that the run was started with.

        Raises:
            InputError: the folder is no run, or its spec is damaged.
        """
        if not self.spec.exists():
            raise InputError(
                f"{self.root}: not a run folder (no {self.spec.name}); give the path of a run, like results/lcnn-cpu"
            )
        return validate_spec(read_yaml(self.spec), str(self.spec))

    def log_test_opening(self, reason: str) -> None:
        """Note that the test patients are about to be read; call before reading them.

        Raises:
            InputError: the log was tampered with.
        """
        add_opening(self.test_openings, reason)

    def last_test_opening(self) -> str:
        """The hash of the last opening, for the evaluation that stands on it.

        Raises:
            InputError: the log was tampered with.
        """
        return read_openings(self.test_openings)[-1]

    def check_test_openings(self) -> None:
        """See that the log of test openings is whole, and that every evaluation's opening is in it.

        Raises:
            InputError: it is not.
        """
        evaluations = [self.evaluation, *sorted(self.final.glob(f"*/{self.evaluation.name}"))]
        check_openings(self.test_openings, [path for path in evaluations if path.exists()])

    def check_place(self) -> None:
        """See that the folder can be written, or made; nothing is written.

        Raises:
            InputError: it cannot.
        """
        refuse_unwritable(self.root, IF_UNWRITABLE)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other command off this folder while the block runs; a folder left empty goes away.

        Raises:
            InputError: another command holds the folder, or it cannot be written.
        """
        with locked(
            self.root,
            if_busy="another command is working on this run; wait for it or use --name",
            if_unwritable=IF_UNWRITABLE,
        ):
            yield


def run_folder(results: Path, spec: Spec) -> RunFolder:
    """The folder of a spec's run: named by the search and its profile."""
    return RunFolder(results / (f"{spec.name}-{spec.profile}" if spec.profile else spec.name))


def check_spec(run: RunFolder, spec: Spec) -> bool:
    """Check that the run folder, where it exists, holds the same search.

    Returns:
        Whether the run exists.

    Raises:
        InputError: the folder holds another search; the message shows the first differences.
    """
    if not run.spec.exists():
        return False
    differences = list(_differences(_identity(run.read_spec()), _identity(spec)))
    if differences:
        shown = "; ".join(differences[:3]) + ("; ..." if len(differences) > 3 else "")
        raise InputError(
            f"{run.root}: holds another search ({shown}); go back to its settings, or start a new run with --name"
        )
    return True


def write_spec(run: RunFolder, spec: Spec) -> None:
    """Keep the resolved spec, without passwords; what a later session changes about its budget replaces the former."""
    text = yaml.safe_dump(_shown(spec), sort_keys=False, allow_unicode=True)
    write_text_atomically(run.spec, text)


def _identity(spec: Spec) -> dict[str, Any]:
    return _shown(spec, exclude=set(RESUMABLE_KEYS))


def _shown(spec: Spec, exclude: set[str] | None = None) -> dict[str, Any]:
    """The spec as plain values, without passwords."""
    values = spec.model_dump(mode="json", exclude=exclude)
    storage = {key: redact(url) if url else url for key, url in values["storage"].items()}
    return {**values, "storage": storage}


def _differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in {**before, **after}:
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield f"{key}: was {json.dumps(before)}, now {json.dumps(after)}"


def describe_environment() -> dict[str, Any]:
    """What a command runs on: versions, machine, commit."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redact(" ".join(sys.argv)),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "commit": _commit(),
    }


def read_environment(run: RunFolder) -> list[dict[str, Any]]:
    """What the run ran on, a session each; none before the first.

    Raises:
        InputError: the file is damaged.
    """
    try:
        sessions: list[dict[str, Any]] = (
            json.loads(run.environment.read_text(encoding="utf-8")) if run.environment.exists() else []
        )
    except ValueError as error:
        raise InputError(f"{run.environment}: damaged ({first_line(error)}); delete it") from error
    return sessions


def write_environment(run: RunFolder) -> None:
    """Keep what the run runs on; a later session, perhaps on another machine, adds to it."""
    sessions = [*read_environment(run), describe_environment()]
    write_text_atomically(run.environment, json.dumps(sessions, indent=1) + "\n")


def _commit(code: Path = Path(__file__)) -> str | None:
    """The git commit of the code, marked where the working tree differs from it; None where git does not keep it.

    An installed copy may lie in a folder of somebody else's repository, whose commit says nothing of ours.
    """
    try:
        _git(code.parent, "ls-files", "--error-unmatch", code.name)
        return _git(code.parent, "describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
