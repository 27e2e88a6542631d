"""A run that meets with a read-only folder, the death of Ray's servers, a full disk: it says so, and goes on.

But for the full disk, the deep tests go through the life of one run in order. tests/search/execution kills workers,
nodes and, of a search without a cohort, the servers.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState
from processes import children
from the_command import execute, kill, refused_where_read_only, search, start, wait_for_new_epoch

pytestmark = pytest.mark.timeout(400)
TRIALS = 3
SHORT = ("--set", "confirm.top=0", "--set", "exports=[]")
"""Without what tests/e2e/test_command.py has."""
COMMAND = search(TRIALS, "--set", "search.T=null", *SHORT)
LAST_S = 60.0
"""Longest time that the command may outlive a server; Ray itself gives up after about as long."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of this file are run."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    return place / "results" / "lcnn-cpu"


def study(run: Path) -> list[FrozenTrial]:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{run / 'study.db'}").trials


def same(trial: FrozenTrial) -> tuple[object, ...]:
    return trial.number, trial.state, trial.params, trial.intermediate_values


def ended_by_the_death_of(server: str, place: Path, run: Path) -> None:
    process = start(COMMAND, place)
    try:
        wait_for_new_epoch(process, run)
        finished = [trial for trial in study(run) if trial.state.is_finished()]
        # Ours alone: others may run Ray on this machine.
        os.kill(children(process.pid)[server], signal.SIGKILL)
        _, errors = process.communicate(timeout=LAST_S)
    finally:
        kill(process)
    assert process.returncode == 1
    assert f"Ray's {server} was ended by SIGKILL" in errors
    assert "then the same command goes on" in errors
    assert "Traceback" not in errors
    assert [same(trial) for trial in study(run)[: len(finished)]] == [same(trial) for trial in finished]


def test_read_only_results_are_refused_in_one_line(place: Path, run: Path) -> None:
    run.parent.mkdir()
    refused_where_read_only(COMMAND, run.parent, place)


@pytest.mark.deep
def test_the_death_of_the_raylet_is_one_line(place: Path, run: Path) -> None:
    ended_by_the_death_of("raylet", place, run)


@pytest.mark.deep
def test_a_read_only_run_is_refused_in_one_line(place: Path, run: Path) -> None:
    refused_where_read_only(COMMAND, run, place)


@pytest.mark.deep
def test_the_death_of_the_gcs_server_is_one_line(place: Path, run: Path) -> None:
    ended_by_the_death_of("gcs_server", place, run)


@pytest.mark.deep
def test_the_same_command_goes_on_and_loses_nothing(place: Path, run: Path) -> None:
    before = study(run)
    done = execute(COMMAND, place)
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stdout
    after = study(run)
    assert [trial.number for trial in after] == list(range(TRIALS))
    assert {trial.state for trial in after} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({str(trial.params) for trial in after}) == TRIALS
    assert sum(len(trial.intermediate_values) for trial in before) >= 2  # each server died after an epoch
    for was, now in zip(before, after, strict=False):
        assert now.params == was.params
        assert now.intermediate_values | was.intermediate_values == now.intermediate_values
        if was.state.is_finished():
            assert same(now) == same(was)
    assert (run / "evaluation.json").exists()


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


@pytest.mark.deep
def test_a_full_disk_is_one_line_and_the_same_command_goes_on_later(place: Path, small_disk: Path) -> None:
    command = search(2, *SHORT, "--results", str(small_disk / "results"))
    stopped = execute(command, place)
    assert stopped.returncode == 1, stopped.stderr
    assert "No space left on device" in stopped.stderr
    assert "make room, then the same command goes on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    run = small_disk / "results" / "lcnn-cpu"
    assert not list(run.rglob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=400m", str(small_disk)], check=True)
    done = execute(command, place)
    assert done.returncode == 0, done.stderr
    trials = pd.read_csv(run / "trials.csv")
    assert list(trials.number) == [0, 1]
    assert set(trials.outcome) <= {"completed", "pruned"}
