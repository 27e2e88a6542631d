"""The command as a user gives it, on a small synthetic cohort: in a process of its own, or in this one."""

import contextlib
import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import run_search

ROOT = Path(__file__).parents[2]
SPACE = str(ROOT / "spaces" / "lcnn.yaml")
SMALL = (
    "cohort.phantom.patients=14",
    "cohort.phantom.pixel_mm=4.0",
    "cohort.image_size=48",
    "model.width=4",
    "train.epochs=2",
    "train.stacks_per_epoch=32",
    "scheduler.grace=1",
    "resources.trials_at_once=2",
    "exports=[torch]",  # ONNX takes thrice as long; tests/lcnn/test_export.py has both
)
Done = subprocess.CompletedProcess[str]


def search(trials: int | str, *more: str, dashboard: bool = False) -> list[str]:
    """Arguments of a small search."""
    settings = [part for text in SMALL for part in ("--set", text)]
    settings += [] if dashboard else ["--no-dashboard"]  # it takes seconds
    return ["--space", SPACE, "--profile", "cpu", "--trials", str(trials), *settings, *more]


def process_line(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, str(ROOT / "run_search.py"), *arguments]


def start(arguments: Sequence[str], place: Path) -> subprocess.Popen[str]:
    """Start the command in ``place``, in a session of its own, which can be killed as a whole."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # In the background of a shell Ctrl-C is ignored, and what is started there would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        process_line(arguments),
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """End all of a started command, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def execute(arguments: Sequence[str], place: Path) -> Done:
    """Run the command in ``place``, from start to end."""
    return subprocess.run(process_line(arguments), cwd=place, capture_output=True, text=True, timeout=350, check=False)


def answer(arguments: Sequence[str], place: Path) -> Done:
    """The same in this process, which has the libraries already: they are most of the time of a short answer."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = run_search.main(arguments)
        except SystemExit as end:  # argparse's
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)
    return Done(list(arguments), code, output.getvalue(), errors.getvalue())


def recorded_epochs(run: Path) -> int:
    if not (run / "study.db").exists():
        return 0
    with sqlite3.connect(f"file:{run / 'study.db'}?mode=ro", uri=True) as study:
        try:
            return int(study.execute("SELECT COUNT(*) FROM trial_intermediate_values").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def wait_for_new_epoch(process: subprocess.Popen[str], run: Path) -> None:
    deadline, before = time.monotonic() + 200, recorded_epochs(run)
    while recorded_epochs(run) == before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no epoch was recorded"
        time.sleep(0.2)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write below the folder, root included."""
    mounts = (["mount", "--bind", str(folder), str(folder)], ["mount", "-o", "remount,bind,ro", str(folder)])
    for mount in mounts:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no folder can be made read-only here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def refused_where_read_only(command: Sequence[str], folder: Path, place: Path) -> None:
    """Give the command, in ``place``, while ``folder`` cannot be written."""
    before = contents(place)
    with read_only(folder):
        done = answer(command, place)
    assert done.returncode == 2, done.stderr
    assert "cannot be written (Read-only file system); make it writable" in done.stderr
    assert done.stderr.count("\n") == 1
    assert contents(place) == before
