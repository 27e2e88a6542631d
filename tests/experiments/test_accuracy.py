"""The accuracy study: a real tiny one from end to end, what it keeps, and its comparison by hand."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import experiments.study
from data_prep.cohort.split import SplitConfig
from data_prep.common.errors import InputError
from experiments.accuracy import main
from experiments.study import METRICS, Contender, Job, compare
from lcnn.network.model import build_model

SPACE = Path(__file__).parents[2] / "spaces" / "lcnn.yaml"
TINY = [
    *("cohort.image_size=64", "cohort.crop=none", "model.width=4", "model.levels=2", "model.window_size=4"),
    *("model.heads=2", "train.batch_size=4"),
]
NETWORKS = ("lcnn", "unet")
JOBS = [f"{name}-{seed}" for seed in (0, 1) for name in NETWORKS]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two pieces a training, timed for a moment, and a cache of its own."""
    monkeypatch.setattr(experiments.study, "EPOCHS", 2)
    monkeypatch.setattr(experiments.study, "TIMED_ROUNDS", 1)
    monkeypatch.setattr(experiments.study, "TIMED_STEPS", 1)
    monkeypatch.setattr(experiments.study, "SPLIT", SplitConfig(train=0.4, val=0.2, test=0.4))
    monkeypatch.setattr(experiments.study, "CACHE", tmp_path_factory.getbasetemp() / "accuracy-cache")
    # A budget in seconds would depend on the machine.
    monkeypatch.setattr(experiments.study, "step_seconds", lambda _, contenders: {c.name: 0.25 for c in contenders})


@pytest.fixture(scope="module")
def cohort_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten heads of three slices, each with a bright disc in its middle slice."""
    root = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:48, :48]
    head = (row - 24) ** 2 + (column - 24) ** 2 < 20**2
    for patient in range(10):
        disc = (row - 24) ** 2 + (column - 14 - 2 * patient) ** 2 < (4 + patient % 3) ** 2
        for index in range(3):
            mask = disc if index == 1 else np.zeros_like(disc)
            grey = np.where(mask, 210, np.where(head, rng.integers(90, 131, head.shape), 0))
            for part, picture in (("images", grey), ("masks", 255 * mask)):
                file = root / part / f"p{patient}" / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(file)
    return root


def study(root: Path | str, out: Path, *more: str) -> int:
    settings = [word for setting in TINY for word in ("--set", setting)]
    words = [
        "--cohort",
        str(root),
        "--space",
        str(SPACE),
        "--out",
        str(out),
        "--jobs",
        "1",
        "--seconds",
        "1",
        *settings,
    ]
    return main([*words, "--seeds", "2", "--networks", *NETWORKS, *more])


@pytest.fixture
def done(cohort_root: Path, tmp_path: Path, finished: list[Path]) -> Path:
    """The folder of a finished study, a copy for each test."""
    if not finished:
        out = tmp_path / "first"
        assert study(cohort_root, out) == 0
        finished.append(out)
    return Path(shutil.copytree(finished[0], tmp_path / "study"))


@pytest.fixture(scope="module")
def finished() -> list[Path]:
    return []


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders in which the study calls for a training."""
    folders: list[Path] = []
    fit: Callable[..., Any] = experiments.study.fit
    monkeypatch.setattr(
        experiments.study,
        "fit",
        lambda *given, **named: (folders.append(named["folder"]), fit(*given, **named))[1],
    )
    return folders


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def assert_refused(code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_one_command_trains_tests_and_compares(done: Path) -> None:
    kept = json.loads((done / "study.json").read_text())
    assert kept["contenders"] == {"lcnn": {}, "unet": {}}
    assert kept["steps"] == {"lcnn": 4, "unet": 4}  # a second in steps of a quarter of it
    assert kept["parameters"]["unet"] == pytest.approx(kept["parameters"]["lcnn"], rel=0.2)
    test = json.loads((done / "split.json").read_text())["test"]
    assert len(test) == 4
    for job in JOBS:
        rows = pd.read_csv(done / job / "patients.csv")
        assert rows["patient"].tolist() == test
        assert set(rows["model"]) == {job.split("-")[0]}
        assert len((done / job / "history.csv").read_text().splitlines()) == 1 + 2
    summary = json.loads((done / "summary.json").read_text())
    assert set(summary["mean"]) == set(summary["dice_by_seed"]) == set(NETWORKS)
    assert {(one["ours"], one["theirs"]) for one in summary["comparisons"]} == {("lcnn", "unet")}
    assert [one["metric"] for one in summary["comparisons"]] == list(METRICS)
    assert summary["mean"]["lcnn"]["dice"]["patients"] == 4


def test_the_same_command_again_trains_nothing_and_says_the_same(
    done: Path, cohort_root: Path, trained: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(done)
    assert study(cohort_root, done) == 0
    assert trained == []
    assert files(done) == before
    said = capsys.readouterr().out
    assert "4 test patients, 2 seeds, 1 s of one thread a training, 64 pixels" in said
    assert "lcnn - unet" in said


def test_a_test_that_is_missing_is_made_again_with_the_same_figures(
    done: Path, cohort_root: Path, trained: list[Path]
) -> None:
    before = files(done)
    (done / "unet-1" / "patients.csv").unlink()
    shutil.rmtree(done / "lcnn-0")
    assert study(cohort_root, done) == 0
    assert trained == [done / "lcnn-0", done / "unet-1"]
    after = files(done)
    assert after.keys() == before.keys()
    for name in before:
        if name.endswith("patients.csv") or name == "summary.json":
            assert after[name] == before[name], name


def test_a_further_seed_trains_that_seed_alone(done: Path, cohort_root: Path, trained: list[Path]) -> None:
    assert study(cohort_root, done, "--seeds", "3") == 0
    assert trained == [done / "lcnn-2", done / "unet-2"]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--seconds", "2"), "seconds"),
        (("--networks", "lcnn"), "contenders"),
        (("--set", "loss.dice=0.6"), "config"),
        (("--set", "cohort.image_size=96"), "picture"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    done: Path, cohort_root: Path, trained: list[Path], capsys: pytest.CaptureFixture[str], more: tuple[str], what: str
) -> None:
    before = files(done)
    assert_refused(study(cohort_root, done, *more), f"holds a study with another {what}", capsys)
    assert trained == []
    assert files(done) == before


@pytest.mark.parametrize("more", [("--seconds", "0"), ("--seconds", "-1"), ("--seeds", "0"), ("--jobs", "0")])
def test_nothing_to_do_is_refused(
    cohort_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str]
) -> None:
    assert_refused(study(cohort_root, tmp_path / "out", *more), "must be above 0", capsys)
    assert not (tmp_path / "out").exists()


def test_an_unknown_cohort_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(study(tmp_path / "nowhere", tmp_path / "out"), "nowhere", capsys)
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_is_told_in_one_line(
    cohort_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiments.study, "LEARNING_RATE", 1e30)
    assert study(cohort_root, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.startswith("failed: ")
    assert "lcnn-0" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_step_is_measured_for_every_network(
    cohort_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    for name, value in (("EPOCHS", 2), ("TIMED_ROUNDS", 1), ("TIMED_STEPS", 2), ("CACHE", tmp_path)):
        monkeypatch.setattr(experiments.study, name, value)
    assert study(cohort_root, tmp_path / "out", "--seconds", "1", "--seeds", "1") == 0
    measured = json.loads((tmp_path / "out" / "study.json").read_text())["step_seconds"]
    assert set(measured) == set(NETWORKS)
    assert all(0 < seconds < 60 for seconds in measured.values())


def test_a_budget_below_one_step_an_epoch_is_refused(
    cohort_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        experiments.study, "step_seconds", lambda *_: {"lcnn": 0.1, "unet": 0.02, "attention_unet": 0.2}
    )
    monkeypatch.setattr(experiments.study, "EPOCHS", 2)
    assert study(cohort_root, tmp_path / "out", "--seconds", "0.3", "--seeds", "1") == 2
    assert (
        capsys.readouterr().err == "error: --seconds 0.3: the slowest contender needs 0.4 for one step in each epoch\n"
    )
    assert not (tmp_path / "out" / "study.json").exists()


def table(folder: Path, name: str, seed: int, dice: list[float | None]) -> tuple[Job, Path]:
    """A job's figures of patients p, q, ...; all metrics alike."""
    path = folder / f"{name}-{seed}.csv"
    rows = {"model": name, "patient": list("pqr")[: len(dice)]} | dict.fromkeys(METRICS, dice)
    pd.DataFrame(rows).to_csv(path, index=False)
    return Job(Contender(name, build_model), seed, 1), path


def test_figures_are_means_over_seeds_first_and_then_over_patients(tmp_path: Path) -> None:
    tables = [
        table(tmp_path, "lcnn", 0, [0.8, 0.2, None]),
        table(tmp_path, "lcnn", 1, [0.6, None, None]),
        table(tmp_path, "unet", 0, [0.5, 0.4, None]),
        table(tmp_path, "unet", 1, [0.3, 0.0, 0.9]),
    ]
    found = compare(tables)
    # Patients' means over the seeds: 0.7, 0.2 and none; 0.4, 0.2 and 0.9.
    assert found["mean"]["lcnn"]["dice"]["mean"] == pytest.approx((0.7 + 0.2) / 2)
    assert found["mean"]["unet"]["hd95"]["mean"] == pytest.approx((0.4 + 0.2 + 0.9) / 3)
    assert [found["mean"][name]["recall"]["patients"] for name in NETWORKS] == [2, 3]
    # Paired: 0.7 - 0.4 and 0.2 - 0.2; the third patient has no pair.
    (precision,) = (one for one in found["comparisons"] if one["metric"] == "precision")
    difference = precision["difference"]
    assert difference["mean"] == pytest.approx((0.3 + 0.0) / 2)
    assert difference["patients"] == 2
    assert difference["low"] == pytest.approx(0.0)
    assert difference["high"] == pytest.approx(0.3)
    # Differences 0.3 and 0: two of the four sign flips are as large, so nothing is shown.
    assert precision["p_permutation"] == precision["p_holm"] == 1.0
    assert found["dice_by_seed"] == {"lcnn": {0: 0.5, 1: 0.6}, "unet": {0: 0.45, 1: 0.4}}


def test_several_others_are_corrected_for_together(tmp_path: Path) -> None:
    tables = [
        table(tmp_path, "lcnn", 0, [0.8, 0.7, 0.9]),
        table(tmp_path, "unet", 0, [0.5, 0.3, 0.4]),
        table(tmp_path, "attention_unet", 0, [0.6, 0.8, 0.5]),
    ]
    dice = [one for one in compare(tables)["comparisons"] if one["metric"] == "dice"]
    assert [one["theirs"] for one in dice] == ["unet", "attention_unet"]
    # All signs alike: 2 of 8 flips are as large. 0.2 - 0.1 + 0.4: so are those to 0.7 and 0.5, on either side, 4 of 8.
    assert [one["p_permutation"] for one in dice] == pytest.approx([0.25, 0.5])
    assert [one["p_holm"] for one in dice] == pytest.approx([0.5, 0.5])


def test_scans_of_a_person_are_one_patient(tmp_path: Path) -> None:
    tables = [table(tmp_path, "lcnn", 0, [0.8, 0.6, 0.1]), table(tmp_path, "unet", 0, [0.4, 0.4, 0.0])]
    for _, path in tables:
        pd.read_csv(path).assign(group=[1, 1, None]).to_csv(path, index=False)
    found = compare(tables)
    assert found["mean"]["lcnn"]["dice"]["mean"] == pytest.approx((0.7 + 0.1) / 2)
    (dice,) = (one for one in found["comparisons"] if one["metric"] == "dice")
    assert (dice["difference"]["mean"], dice["difference"]["patients"]) == (pytest.approx(0.2), 2)


def test_a_table_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    job, path = table(tmp_path, "lcnn", 0, [0.8])
    pd.read_csv(path).drop(columns=["surface_dice", "lesion_f1"]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"lcnn-0\.csv: no column surface_dice, lesion_f1.*delete it"):
        compare([(job, path)])
