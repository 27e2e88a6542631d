"""The command on a disk that is full: one line, nothing half-written, and it goes on once there is room."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from the_command import execute, search

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 34 MiB: room for the study and the slices, and none for a checkpoint beside the spare room."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=34m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_later(tmp_path: Path, small_disk: Path) -> None:
    command = search(2, "--results", str(small_disk / "results"))
    stopped = execute(command, tmp_path)
    assert stopped.returncode == 1, stopped.stderr
    assert "No space left on device" in stopped.stderr
    assert "make room, then the same command goes on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    run = small_disk / "results" / "lcnn-cpu"
    assert not list(run.rglob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    done = execute(command, tmp_path)
    assert done.returncode == 0, done.stderr
    trials = pd.read_csv(run / "trials.csv")
    assert list(trials.number) == [0, 1]
    assert set(trials.outcome) <= {"completed", "pruned"}
