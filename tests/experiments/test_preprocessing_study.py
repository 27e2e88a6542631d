"""Preparations compared: each contender trains on pictures of its own; what the way there and back costs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import experiments.study
from data_prep.cohort.split import SplitConfig
from data_prep.phantom.cohort import build_phantom_cohort
from data_prep.phantom.config import PhantomConfig
from data_prep.preprocessing.picture import PictureConfig
from experiments import head_geometry
from experiments.preprocessing import PREPARATIONS
from experiments.study import parser, run_study

SPACE = Path(__file__).parents[2] / "spaces" / "lcnn.yaml"
TINY = ("cohort.image_size=32", "model.width=4", "model.levels=2", "model.window_size=4", "model.heads=2")


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five synthetic heads at 4 mm a pixel."""
    root = tmp_path_factory.mktemp("phantom") / "cohort"
    build_phantom_cohort(root, PhantomConfig(patients=5, pixel_mm=4.0, slice_mm=10.0), 1)
    return root


def test_preparations_are_told_apart_by_their_pictures() -> None:
    pictures = {contender.name: contender.picture(PictureConfig(image_size=96)) for contender in PREPARATIONS}
    assert len(set(pictures.values())) == len(PREPARATIONS)
    assert pictures["crop"] == PictureConfig(image_size=96)
    assert pictures["crop_skull"] == PictureConfig(image_size=96, strip_skull=True)
    assert PREPARATIONS[-1].changes()["picture.strip_skull"] is True


def test_contenders_train_and_are_tested_on_their_own_pictures(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments.study, "EPOCHS", 1)
    monkeypatch.setattr(experiments.study, "SPLIT", SplitConfig(train=0.4, val=0.2, test=0.4))
    monkeypatch.setattr(experiments.study, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(experiments.study, "step_seconds", lambda _, contenders: {c.name: 1.0 for c in contenders})
    words = ["--cohort", str(phantom), "--space", str(SPACE), "--out", str(tmp_path / "out")]
    words += ["--seconds", "1", "--seeds", "1", "--jobs", "1"]
    words += [word for setting in TINY for word in ("--set", setting)]
    chosen = [PREPARATIONS[0], PREPARATIONS[-1]]
    assert run_study("preprocessing", chosen, parser("").parse_args(words)) == 0
    kept = json.loads((tmp_path / "out" / "study.json").read_text(encoding="utf-8"))
    assert kept["contenders"] == {contender.name: contender.changes() for contender in chosen}
    assert len(list((tmp_path / "cache").glob("*/*/index.json"))) == 2
    assert set(json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["mean"]) == {
        "crop",
        "crop_skull",
    }
    (tmp_path / "out" / "study.json").write_text(
        json.dumps({**kept, "picture": {**kept["picture"], "align_midline": False}}), encoding="utf-8"
    )
    assert run_study("preprocessing", chosen, parser("").parse_args(words)) == 0, "a study of an earlier version"
    changed = [chosen[0], replace(chosen[1], shown={})]
    assert run_study("preprocessing", changed, parser("").parse_args(words)) == 2


def test_what_the_phantom_loses_is_measured(
    phantom: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(head_geometry, "CACHE", tmp_path)
    words = ["--cohort", str(phantom), "--patients", "1", "--jobs", "1", "--image-size", "32"]
    assert head_geometry.main(words) == 0
    said = capsys.readouterr().out
    assert "SYNTHETIC" in said
    assert "0 with the couch" in said
    assert head_geometry.main([*words, "--patients", "0"]) == 2
