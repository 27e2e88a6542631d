"""Tells W&B what it does not know yet, for a bounded time and at no risk to anybody."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from search.spec.shipped import PACKAGES
from search.tracking.manifest import Manifest
from search.tracking.mode import Mode, project, target
from search.tracking.runs import TrackedRun

FOLDER = "wandb"
"""W&B's own name for the folder of its files."""
MANIFEST = "manifest.jsonl"
POLL_S = 0.1
MOST_BYTES = 2**16
OF_ONE_RUN = ("WANDB_RUN_ID", "WANDB_NAME", "WANDB_RESUME", "WANDB_SERVICE", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")


@dataclass(frozen=True)
class Patience:
    """How long W&B is waited for."""

    stall_s: float = 60.0
    """Without a run getting done."""
    total_s: float = 300.0
    """In all."""


@dataclass(frozen=True)
class Synced:
    """What a synchronisation did."""

    written: int
    known: int
    """Runs that W&B had already."""
    missing: int = 0
    """Runs that it still does not have."""
    fault: str | None = None
    """Why, in one line."""


def sync(runs: Sequence[TrackedRun], folder: Path, mode: Mode, patience: Patience) -> Synced:
    """Write the runs that are new or have changed.

    Args:
        runs: all that W&B is to know of a search.
        folder: the run folder; the manifest and W&B's files lie in ``wandb`` below it.
        mode: offline or online.
        patience: after which the rest is left for another time.
    """
    manifest = Manifest(folder / FOLDER / MANIFEST, target(mode))
    digests = {run.id: run.digest for run in runs}
    there = offline_runs(folder) if mode == Mode.OFFLINE else set(digests)
    pending = [run for run in runs if run.id not in there or not manifest.holds(run.id, digests[run.id])]
    known = len(runs) - len(pending)
    if not pending:
        return Synced(0, known)
    (folder / FOLDER).mkdir(exist_ok=True)
    written = 0
    with tempfile.TemporaryFile() as complaints:
        try:
            for name in _written(pending, folder, mode, patience, complaints.fileno()):
                manifest.add(name, digests[name])
                written += 1
            fault = None
        except TimeoutError as error:
            fault = str(error)
        if written < len(pending) and fault is None:
            complaints.seek(0)
            fault = _last_line(complaints.read().decode(errors="replace"))
    return Synced(written, known, len(pending) - written, fault)


def offline_runs(folder: Path) -> set[str]:
    """Ids of the W&B runs that lie in the run folder."""
    # offline-run-<date>_<time>-<id>
    return {path.name.split("-", 3)[3] for path in (folder / FOLDER).glob("offline-run-*-*")}


def _written(
    runs: Sequence[TrackedRun], folder: Path, mode: Mode, patience: Patience, complaints: int
) -> Iterator[str]:
    """Ids of the runs as the writer gets done with them.

    Raises:
        TimeoutError: it took longer than there is patience.
    """
    job = {
        "runs": [asdict(run) for run in runs],
        "folder": str(folder.resolve()),
        "project": project(),
        "mode": mode.value,
    }
    # Files and not pipes: W&B's service holds its ends of them open for longer than the writer lives.
    with tempfile.TemporaryFile() as order, tempfile.TemporaryFile() as answers:
        order.write(json.dumps(job).encode())
        order.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "search.tracking.writer"],
            stdin=order,
            stdout=answers,
            stderr=complaints,
            env=_environment(folder.resolve() / FOLDER),
        )
        try:
            yield from _answers(process, answers.fileno(), patience)
        finally:
            process.kill()
            process.wait()


def _environment(folder: Path) -> dict[str, str]:
    """The writer's environment: it finds our code, and keeps in the folder all that W&B puts down on this machine.

    W&B's variables that describe one run are left out, for the writer has many. It does not report on itself either:
    it would, offline too, and wait 10 s for a network that is gone.
    """
    kept = {key: value for key, value in os.environ.items() if key not in OF_ONE_RUN}
    found = os.pathsep.join(part for part in (str(PACKAGES), kept.get("PYTHONPATH")) if part)
    ours = {"PYTHONPATH": found, "WANDB_DATA_DIR": str(folder / "data"), "WANDB_ERROR_REPORTING": "false"}
    return {**kept, **ours}


def _answers(process: "subprocess.Popen[bytes]", answers: int, patience: Patience) -> Iterator[str]:
    """The lines of a file that the process writes to, until it ends.

    Raises:
        TimeoutError: it says nothing for too long, or takes too long in all.
    """
    started = last = time.monotonic()
    read = 0
    while True:
        ended = process.poll() is not None
        # The process writes where the file's position is, which reading must not move.
        *whole, _ = os.pread(answers, MOST_BYTES, read).split(b"\n")
        for line in whole:
            read += len(line) + 1
            last = time.monotonic()
            yield line.decode()
        if ended and not whole:
            return
        now = time.monotonic()
        if now - last > patience.stall_s:
            raise TimeoutError(f"no answer within {patience.stall_s:g} s")
        if now - started > patience.total_s:
            raise TimeoutError(f"not done after {patience.total_s:g} s")
        if not ended:
            time.sleep(POLL_S)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"
