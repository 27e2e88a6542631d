"""``python -m lcnn``: train, evaluate and predict on a tiny cohort, and what they refuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from lcnn.__main__ import main
from lcnn.config import TrainingConfig
from lcnn.settings_file import validate


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    settings = {
        "T": 1,
        "model": {"width": 4, "levels": 3, "window_size": 3, "heads": 1, "global_backbone": "resnext14_4x2d"},
        "train": {"epochs": 2, "batch_size": 4},
        "picture": {"image_size": 32, "crop": "none"},
    }
    validate(TrainingConfig, settings, "here")
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def larger_cohort(tmp_path_factory):
    """Twelve patients of three slices with a bright disc: enough for a split."""
    root = tmp_path_factory.mktemp("larger")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:36, :36]
    for n in range(12):
        disc = (rows - 18) ** 2 + (columns - 10 - n % 3 * 5) ** 2 < 20
        for part in ("images", "masks"):
            (root / part / f"p{n}").mkdir(parents=True)
        for z in range(3):
            lesion = disc & (z == 1)
            image = np.where(lesion, 220, 90) + rng.integers(0, 20, disc.shape)
            Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"p{n}" / f"{z}.png")
            Image.fromarray(lesion.astype(np.uint8) * 255).save(root / "masks" / f"p{n}" / f"{z}.png")
    return root


@pytest.fixture(scope="module")
def trained(config_file, larger_cohort, tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    arguments = ["train", "--config", str(config_file), "--data", str(larger_cohort), "--out", str(place / "out")]
    assert main([*arguments, "--cache", str(place / "cache"), "--device", "cpu"]) == 0
    return place


def test_train_leaves_checkpoints_history_and_a_split(trained):
    names = {file.name for file in (trained / "out").iterdir()}
    assert names >= {"last.pt", "best.pt", "history.csv", "split.json"}
    assert len(pd.read_csv(trained / "out" / "history.csv")) == 2


def test_train_resumes_and_refuses_another_configuration(trained, config_file, larger_cohort, capsys):
    arguments = ["train", "--config", str(config_file), "--data", str(larger_cohort), "--out", str(trained / "out")]
    arguments += ["--cache", str(trained / "cache")]
    assert main(arguments) == 0
    assert main([*arguments, "--set", "optim.lr=0.01"]) == 2
    assert "belongs to another configuration" in capsys.readouterr().err


def test_evaluate_scores_every_patient_and_keeps_the_figures(trained, larger_cohort, capsys):
    arguments = ["evaluate", "--model", str(trained / "out"), "--data", str(larger_cohort)]
    assert main([*arguments, "--out", str(trained / "scores"), "--cache", str(trained / "cache")]) == 0
    patients = pd.read_csv(trained / "scores" / "patients.csv")
    evaluation = json.loads((trained / "scores" / "evaluation.json").read_text(encoding="utf-8"))
    assert list(patients.patient) == [f"p{n}" for n in range(12)]
    assert evaluation["models"]["model"]["dice"]["mean"] == pytest.approx(patients.dice.mean(), abs=1e-5)
    assert (trained / "scores" / "overlays" / "median.png").exists()
    said = capsys.readouterr().out
    assert "dice" in said
    assert "of the 12 patients trained or validated this model" in said


@pytest.mark.parametrize("place", ["final/3", "trials/3/fold-0"])
def test_evaluate_warns_of_training_patients_for_every_training_of_a_run(
    trained, larger_cohort, tmp_path, capsys, place
):
    shutil.copy(trained / "out" / "split.json", tmp_path)
    (tmp_path / place).mkdir(parents=True)
    shutil.copy(trained / "out" / "best.pt", tmp_path / place / "last.pt")
    arguments = ["evaluate", "--model", str(tmp_path / place), "--data", str(larger_cohort)]
    assert main([*arguments, "--cache", str(trained / "cache")]) == 0
    assert "of the 12 patients trained or validated this model" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "names"), [("", 12), ("images/p3", 1), ("images/p3/1.png", 1)])
def test_predict_takes_a_cohort_a_patient_or_a_slice(trained, larger_cohort, tmp_path, capsys, given, names):
    arguments = ["predict", "--model", str(trained / "out" / "best.pt"), "--input", str(larger_cohort / given)]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    folders = list((tmp_path / "masks").iterdir())
    assert len(folders) == names
    for mask in (tmp_path / "masks").rglob("*.png"):
        with Image.open(mask) as image:
            assert image.size == (36, 36)
            assert set(np.unique(np.asarray(image))) <= {0, 255}
    assert "slices/s" in capsys.readouterr().out


def test_an_exported_model_predicts_like_the_training_it_comes_from(trained, larger_cohort, tmp_path, capsys):
    arguments = ["export", "--model", str(trained / "out"), "--out", str(tmp_path / "model"), "--formats"]
    assert main(arguments) == 0
    steps = [line for line in capsys.readouterr().out.splitlines() if line.startswith("exporting: ")]
    assert steps == ["exporting: weights and settings", "exporting: MONAI bundle and model card"]
    assert "exported without a test" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for model in (trained / "out", tmp_path / "model"):
        arguments = ["predict", "--model", str(model), "--input", str(larger_cohort / "images" / "p3")]
        assert main([*arguments, "--out", str(tmp_path / model.name / "masks_of")]) == 0
    masks = [sorted((tmp_path / name / "masks_of").rglob("masks/**/*.png")) for name in ("out", "model")]
    assert len(masks[0]) == 3
    assert [file.read_bytes() for file in masks[0]] == [file.read_bytes() for file in masks[1]]


BAD = {
    "no model": (["evaluate", "--model", "nowhere", "--data", "DATA"], "nowhere: no model there"),
    "no input": (["predict", "--model", "MODEL", "--input", "nowhere", "--out", "o"], "nowhere: no such file"),
    "empty input": (["predict", "--model", "MODEL", "--input", "EMPTY", "--out", "o"], "no slices"),
    "no cohort": (["evaluate", "--model", "MODEL", "--data", "EMPTY"], "no folder images or image"),
    "no config": (["train", "--config", "nowhere.yaml", "--data", "DATA", "--out", "o"], "nowhere.yaml: No such file"),
    "unknown setting": (
        ["train", "--config", "CONFIG", "--data", "DATA", "--out", "o", "--set", "optim.rl=1"],
        "optim.rl: unknown key; did you mean optim.lr?",
    ),
    "unknown device": (
        ["predict", "--model", "MODEL", "--input", "DATA", "--out", "o", "--device", "tpu"],
        "--device tpu: choose",
    ),
    "masks among the scans": (
        ["predict", "--model", "MODEL", "--input", "DATA", "--out", "DATA"],
        "lies in the input, among the scans",
    ),
    "no threads": (["predict", "--model", "MODEL", "--input", "DATA", "--out", "o", "--threads", "0"], "--threads 0"),
    "nothing to export": (["export", "--model", "nowhere", "--out", "o"], "nowhere: no model there"),
    "export over something else": (["export", "--model", "MODEL", "--out", "TAKEN"], "something else than a model"),
    "text as an image": (["predict", "--model", "MODEL", "--input", "TEXT", "--out", "o"], "cannot be decoded"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_is_one_line_and_exit_code_2(
    case, trained, config_file, larger_cohort, tmp_path, monkeypatch, capsys
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    places = {
        "DATA": larger_cohort,
        "MODEL": trained / "out",
        "EMPTY": tmp_path / "empty",
        "CONFIG": config_file,
        "TEXT": tmp_path / "text.png",
        "TAKEN": tmp_path,
    }
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[case]
    assert main([str(places.get(argument, argument)) for argument in arguments]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert not Path("o").exists()
