"""A space file's sweep, read by W&B's own code; and a trial of it, run as `wandb agent` runs one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from records import read_runs
from wandb.sdk.launch.sweeps.utils import create_sweep_command
from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config

from data_prep.common.errors import InputError
from search.commands import wandb_sweep
from search.spec.settings import Overrides, Spec, load_spec
from search.spec.space import SearchSpace
from search.tracking.sweep import drawn_params, sweep_config, sweep_text

ROOT = Path(__file__).parents[3]
SPACE_FILE = ROOT / "spaces" / "lcnn.yaml"
DRAWN: dict[str, Any] = {
    "T": 2,
    "fusion.local": 0.5,
    "loss.dice": 0.4,
    "loss.alignment": 0.1,
    "optim.lr": 0.002,
    "schedule": "polynomial",
    "schedule.cosine_restarts.t0": 5,
    "schedule.one_cycle.warmup": 0.1,
    "schedule.polynomial.power": 1.5,
}
SMALL = (
    "cohort.phantom.patients=14",
    "cohort.phantom.pixel_mm=4.0",
    "cohort.image_size=48",
    "model.width=4",
    "train.epochs=2",
    "train.stacks_per_epoch=16",
    "scheduler.grace=1",
)


def load(profile: str, *settings: str) -> tuple[Spec, SearchSpace]:
    spec = load_spec(SPACE_FILE, Overrides(profile, settings), has_gpu=False)
    return spec, SearchSpace(spec.search, spec.training, "file")


def write_sweep(folder: Path, profile: str, *settings: str) -> dict[str, Any]:
    """The sweep that the command writes, as it reads."""
    out = folder / "sweep.yaml"
    changes = [part for setting in settings for part in ("--set", setting)]
    assert wandb_sweep.main(["--space", str(SPACE_FILE), "--profile", profile, *changes, "--out", str(out)]) == 0
    loaded: dict[str, Any] = yaml.safe_load(out.read_text())
    return loaded


@pytest.mark.parametrize("profile", ["gpu", "cpu", "cpu_real"])
def test_wandb_reads_the_ranges_of_the_space(tmp_path: Path, profile: str) -> None:
    spec, space = load(profile)
    sweep = write_sweep(tmp_path, profile)
    read = search_space_from_sweep_config(sweep["parameters"])
    assert read == {searched.name: searched.distribution for searched in space.ranges()}
    assert (sweep["method"], sweep["metric"]) == ("bayes", {"name": "val_dice", "goal": "maximize"})
    assert sweep["run_cap"] == spec.budget.trials
    assert sweep["early_terminate"] == {"type": "hyperband", "min_iter": spec.scheduler.grace, "eta": 3}


def test_whole_numbers_are_read_as_such() -> None:
    spec, space = load("cpu", "search.train.batch_size={int: [4, 16]}")
    sweep = sweep_config(spec, space, SPACE_FILE, [])
    read = search_space_from_sweep_config(sweep["parameters"])
    assert read == {searched.name: searched.distribution for searched in space.ranges()}


@pytest.mark.parametrize(("rule", "stops"), [("asha", True), ("hyperband", True), ("median", False), ("none", False)])
def test_only_halving_has_an_equal_in_wandb(rule: str, stops: bool) -> None:
    spec, space = load("cpu", f"scheduler.name={rule}")
    assert ("early_terminate" in sweep_config(spec, space, SPACE_FILE, [])) == stops
    assert ("no median rule" in sweep_text(spec, space, SPACE_FILE, [])) == (rule == "median")


def test_the_file_says_where_it_departs() -> None:
    spec, space = load("cpu", "budget.hours=2", "objective.cost=seconds")
    text = sweep_text(spec, space, SPACE_FILE, [])
    assert "the agent ignores those of the options that were not chosen" in text
    assert "not hours." in text
    assert "the front with seconds" in text


def test_a_draw_becomes_a_point_of_the_space() -> None:
    _, space = load("cpu")
    params = drawn_params(space, {**DRAWN, "T": 2.0, "further": 1})
    assert space.fault(params) is None
    assert params.keys() == DRAWN.keys() - {"schedule.cosine_restarts.t0", "schedule.one_cycle.warmup"}
    assert space.config(params).T == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"T": 9}, "T = 9 is outside the range (one of 1, 2, 3)"),
        ({"T": True}, "T = True is outside the range"),
        ({"optim.lr": "high"}, "optim.lr = high is outside the range"),
        ({"optim.lr": None}, "optim.lr = None is outside the range"),
    ],
)
def test_a_draw_of_another_space_is_refused(change: dict[str, Any], said: str) -> None:
    _, space = load("cpu")
    with pytest.raises(InputError) as error:
        drawn_params(space, {**DRAWN, **change})
    assert said in str(error.value)
    assert "search.wandb_sweep" in str(error.value)


def test_a_missing_parameter_is_named() -> None:
    _, space = load("cpu")
    with pytest.raises(InputError, match=r"loss\.dice is missing"):
        drawn_params(space, {key: value for key, value in DRAWN.items() if key != "loss.dice"})


def test_bad_input_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep.yaml"
    assert wandb_sweep.main(["--space", str(SPACE_FILE), "--profile", "huge", "--out", str(out)]) == 2
    assert "no profile huge" in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where agents run; the second finds the cohort that the first has built."""
    return tmp_path_factory.mktemp("sweeps")


def run_agent(place: Path, sweep: dict[str, Any], draw: dict[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    """The command of the file, filled in by W&B's own code, with the draw where `wandb agent` puts it."""
    command = create_sweep_command(sweep["command"])
    filled = [sys.executable if part == "${interpreter}" else part for part in command if part != "${env}"]
    drawn = place / "drawn.yaml"
    drawn.write_text(yaml.safe_dump({"wandb_version": 1, **{key: {"value": value} for key, value in draw.items()}}))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return subprocess.run(
        [*filled, *more],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={
            **environment,
            "PYTHONPATH": str(ROOT),
            "WANDB_MODE": "offline",
            "WANDB_SWEEP_ID": "s1",
            "WANDB_RUN_ID": "r1",
            "WANDB_SWEEP_PARAM_PATH": str(drawn),
        },
    )


def test_the_agent_trains_what_was_drawn(place: Path) -> None:
    ended = run_agent(place, write_sweep(place, "cpu", *SMALL), DRAWN)
    assert ended.returncode == 0, ended.stderr
    run = place / "results" / "lcnn-cpu-sweep"
    (written,) = read_runs(run)
    assert written.config["settings"]["schedule"] == {"name": "polynomial", "power": 1.5}
    assert (written.config["settings"]["T"], written.config["synthetic"]) == (2, True)
    assert [row["epoch"] for row in written.history] == [1, 2]
    record = json.loads((run / "trials" / "r1" / "trial.json").read_text())
    assert record["curve"] == [row["val_dice"] for row in written.history]
    assert (record["outcome"], record["sweep"], record["params"]["T"]) == ("completed", "s1", 2)
    assert written.summary["val_dice"] == max(record["curve"])
    assert (run / "split.json").exists()


def test_a_draw_whose_settings_exclude_each_other_is_reported_to_the_sweep(place: Path) -> None:
    both = ("search.model.norm={choice: [group, batch]}", "search.train.batch_size={choice: [1, 8]}")
    sweep = write_sweep(place, "cpu", *SMALL, *both)
    draw = {**DRAWN, "model.norm": "batch", "train.batch_size": 1}
    ended = run_agent(place, sweep, draw, "--results", "others")
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "infeasible: model.norm: batch needs two stacks" in ended.stdout
    run = place / "others" / "lcnn-cpu-sweep"
    (written,) = read_runs(run)
    assert (written.summary["outcome"], written.summary["val_dice"]) == ("infeasible", 0.0)
    record = json.loads((run / "trials" / "r1" / "trial.json").read_text())
    assert (record["outcome"], record["curve"]) == ("infeasible", [])
    assert record["reason"] == written.summary["reason"]
