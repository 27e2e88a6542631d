"""The command as a user runs it: real processes, real Ray, a small synthetic cohort. Refusals need no process.

The tests of this file go through the life of one run, in order: dry run, interruption, resumption, the finished
run, a changed search, more trials, a retrained trial.
"""

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from the_command import (
    answer,
    execute,
    kill,
    recorded_epochs,
    refused_where_read_only,
    search,
    start,
    wait_for_new_epoch,
)

RUN_FILES = (
    "spec.yaml",
    "environment.json",
    "split.json",
    "study.db",
    "trials.csv",
    "confirm.csv",
    "best_config.yaml",
    "training_history.csv",
    "run.log",
    "evaluation.json",
    "patients.csv",
    "report.html",
    "test_openings.log",
    "model/weights.safetensors",
    "near_duplicates.csv",
    "model/config.yaml",
    "model/README.md",
    "model/exports/model.pt2",
    "model/bundle/configs/inference.json",
    "overlays/best.png",
    "overlays/median.png",
    "overlays/worst.png",
    "trials/0/best.pt",
    "trials/0/history.csv",
    "tensorboard/trials/0/events.out.tfevents.lcnn",
    "tensorboard/final/0/events.out.tfevents.lcnn",
)
pytestmark = [pytest.mark.timeout(400), pytest.mark.deeper]  # there are more ways to be stopped in the deep tests
GONE_S = 30.0
"""Longest time that a dashboard may outlive its command."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of this file are run."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    return place / "results" / "lcnn-cpu"


@pytest.fixture
def started(place: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """The search; with Ray's dashboard where the parameter says so."""
    process = start(search(4, dashboard=getattr(request, "param", False)), place)
    yield process
    kill(process)


def test_a_dry_run_shows_the_plan_and_writes_nothing(place: Path) -> None:
    done = answer(search(4, "--dry-run"), place)
    assert done.returncode == 0, done.stderr
    for word in ("is valid", "synthetic", "optim.lr: 0.0001 to 0.01, logarithmic", "4 trials", "in all"):
        assert word in done.stdout
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(signal.SIGINT, id="ctrl-c"),
        pytest.param(signal.SIGTERM, id="sigterm", marks=pytest.mark.deep),
        pytest.param(signal.SIGUSR1, id="sigusr1", marks=pytest.mark.deep),
    ],
)
def test_a_stopped_search_says_how_to_go_on(
    place: Path, run: Path, started: subprocess.Popen[str], sent: signal.Signals
) -> None:
    wait_for_new_epoch(started, run)
    started.send_signal(sent)
    output, errors = started.communicate(timeout=60)
    assert started.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in output + errors


def test_a_read_only_run_is_refused_in_one_line(place: Path, run: Path) -> None:
    refused_where_read_only(search(4), run, place)


def descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield child
            yield from descendants(child)


def is_of_dashboard(pid: int) -> bool:
    """Whether the process is there and serves the dashboard; of a zombie no command is known."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
    return "dashboard/dashboard.py" in line or line.startswith("ray-dashboard-")


@pytest.mark.deep
@pytest.mark.parametrize("started", [True], indirect=True, ids=["with-dashboard"])
def test_a_search_killed_without_a_word_keeps_its_epochs_and_leaves_no_dashboard(
    run: Path, started: subprocess.Popen[str]
) -> None:
    """Ray's agents, which it starts without a dashboard too, take up to a minute; they are not looked at here."""
    wait_for_new_epoch(started, run)
    before = recorded_epochs(run)
    serving = {pid for pid in descendants(started.pid) if is_of_dashboard(pid)}
    assert len(serving) > 5
    started.kill()
    deadline = time.monotonic() + GONE_S
    while left := [pid for pid in serving if is_of_dashboard(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    started.communicate(timeout=90)  # Ray's processes hold the pipes until they notice
    assert started.returncode == -signal.SIGKILL
    assert recorded_epochs(run) >= before


def test_the_same_command_resumes_and_finishes(place: Path, run: Path) -> None:
    before = recorded_epochs(run)
    done = execute(search(4), place)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert before > 0
    assert "resumed" in done.stdout
    for word in (
        "SYNTHETIC",
        "4 of 4 trials done" if "4 of 4" in done.stdout else "4 trials",
        "Winner: trial",
        "surface Dice at 5 mm",
        "lesion-wise F1",
        "minus test Dice",
        "Next:",
    ):
        assert word in done.stdout
    trials = pd.read_csv(run / "trials.csv")
    assert list(trials.number) == [0, 1, 2, 3]
    assert set(trials.outcome) <= {"completed", "pruned"}
    assert trials.outcome[0] == "completed"


def test_the_run_folder_holds_what_the_readme_says(run: Path) -> None:
    for name in RUN_FILES:
        assert (run / name).exists(), name
    for picture in (run / "overlays").iterdir():
        with Image.open(picture) as image:
            image.load()


def test_the_evaluation_is_of_test_patients_only_and_was_opened_once(run: Path) -> None:
    split = json.loads((run / "split.json").read_text(encoding="utf-8"))
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    patients = pd.read_csv(run / "patients.csv")
    assert set(patients.patient) == set(split["test"])
    assert not set(split["test"]) & {*split["train"], *split["val"]}
    assert evaluation["synthetic"] is True
    assert evaluation["windows"] == "brain (level 40 HU, width 80 HU)"
    assert evaluation["patients"] == {part: len(split[part]) for part in ("train", "val", "test")}
    winner = patients[patients.model == "winner"]
    assert evaluation["models"]["winner"]["dice"]["mean"] == pytest.approx(winner.dice.mean())
    assert len((run / "test_openings.log").read_text(encoding="utf-8").splitlines()) == 1
    if evaluation["winner"] != 0:
        defaults = patients[patients.model == "defaults"]
        difference = winner.dice.to_numpy() - defaults.dice.to_numpy()
        assert evaluation["comparisons"][0]["difference"]["mean"] == pytest.approx(pd.Series(difference).mean())


def test_a_finished_run_shows_its_result_without_doing_it_again(place: Path, run: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in (run / "evaluation.json", run / "model" / "weights.safetensors")
    }
    done = answer(search(4), place)
    assert done.returncode == 0, done.stderr
    assert "is finished" in done.stdout
    assert "Winner: trial" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert len((run / "test_openings.log").read_text(encoding="utf-8").splitlines()) == 1


def test_a_changed_search_is_refused_with_the_difference(place: Path) -> None:
    done = answer(search(4, "--set", "optim.lr=0.002"), place)
    assert done.returncode == 2
    assert "optim.lr: was 0.001, now 0.002" in done.stderr
    assert done.stderr.count("\n") == 1


def test_changed_pixels_are_refused(place: Path) -> None:
    (picture,) = place.glob("data/phantom-*/images/phantom_003/005.png")
    original = picture.read_bytes()
    with Image.open(picture) as image:
        size = image.size
    Image.new("L", size, 7).save(picture)
    try:
        done = answer(search(5), place)
    finally:
        picture.write_bytes(original)
    assert done.returncode == 2
    assert "changed: phantom_003" in done.stderr
    assert done.stderr.count("\n") == 1


def move_a_patient(text: str) -> str:
    split = json.loads(text)
    split["train"].append(split["test"].pop())
    return json.dumps(split)


TAMPERED = {
    "split.json": (move_a_patient, 5, "edited after the split was locked"),
    "test_openings.log": (lambda text: "", 4, "is gone; restore the log"),
    "evaluation.json": (lambda text: text.replace('"format"', '"version"'), 4, "written by an earlier version"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_run_is_refused_in_one_line(place: Path, run: Path, name: str) -> None:
    tamper, trials, words = TAMPERED[name]
    original = (run / name).read_text(encoding="utf-8")
    (run / name).write_text(tamper(original), encoding="utf-8")
    try:
        done = answer(search(trials), place)
    finally:
        (run / name).write_text(original, encoding="utf-8")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.deep
def test_more_trials_extend_a_finished_run(place: Path, run: Path) -> None:
    done = execute(search("+1", dashboard=True), place)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Ray dashboard: http://127.0.0.1:" in done.stdout
    assert len(pd.read_csv(run / "trials.csv")) == 5
    assert "trial slots busy" in done.stdout


def test_the_best_are_confirmed_with_other_seeds_before_one_wins(run: Path) -> None:
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    table = pd.read_csv(run / "confirm.csv")
    values = table.groupby("trial").best_val_dice.mean()
    assert 0 in values.index
    assert evaluation["winner"] == evaluation["confirmation"]["trials"][0]["trial"]
    assert values[evaluation["winner"]] == values.max()
    assert set(table.seed) == {1}


def test_a_trial_replays_bit_for_bit(place: Path, run: Path) -> None:
    done = answer(["--replay", str(run), "--trial", "0"], place)
    assert done.returncode == 0, done.stderr
    assert "all 2 epochs are identical to the record" in done.stdout
    assert json.loads((run / "replays" / "0.json").read_text(encoding="utf-8"))["is_identical"] is True


@pytest.mark.deep
def test_a_replay_of_a_falsified_record_is_reported(place: Path, run: Path) -> None:
    with sqlite3.connect(run / "study.db") as study:
        study.execute(
            "UPDATE trial_intermediate_values SET intermediate_value = 0.123 WHERE step = 2 AND trial_id = "
            "(SELECT trial_id FROM trials WHERE number = 0)"
        )
    done = answer(["--replay", str(run), "--trial", "0"], place)
    assert done.returncode == 1
    assert "epoch 2: recorded 0.123000" in done.stdout
    assert "differs from its record" in done.stderr


def test_a_single_trial_can_be_retrained_and_tested(place: Path, run: Path) -> None:
    done = answer(["--retrain", str(run), "--trial", "1"], place)
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((run / "final" / "1" / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["trial"] == 1
    assert "Trial 1: test Dice" in done.stdout
    assert "retraining of trial 1" in (run / "test_openings.log").read_text(encoding="utf-8")


def test_retraining_a_trial_that_does_not_exist_is_refused(place: Path, run: Path) -> None:
    done = answer(["--retrain", str(run), "--trial", "99"], place)
    assert done.returncode == 2
    assert "--trial 99: not a finished trial" in done.stderr
