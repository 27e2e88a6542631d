"""Trials an hour for several at once: real trainings on the CPU, and what is said where there is no GPU."""

import json
from pathlib import Path

import pytest
import torch

from experiments.packing import UNMEASURED, main

SPACE = str(Path(__file__).parents[2] / "spaces" / "lcnn.yaml")
TINY = [
    *("cohort.image_size=32", "cohort.phantom.patients=4", "cohort.phantom.pixel_mm=4.0"),
    *("model.width=4", "model.levels=2", "model.window_size=4", "model.heads=2", "train.batch_size=2"),
    *("train.stacks_per_epoch=4", "train.epochs=3"),
]


@pytest.mark.deep
def test_two_at_once_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [part for text in TINY for part in ("--set", text)]
    out = tmp_path / "packing.json"
    place = ["--space", SPACE, "--cache", str(tmp_path / "cache"), "--out", str(out)]
    assert main([*place, "--profile", "cpu", "--epochs", "2", *settings]) == 0
    found = json.loads(out.read_text())
    one, two = found["rows"]
    assert (one["at_once"], two["at_once"]) == (1, 2)
    for row in (one, two):
        assert row["epoch_s"] > 0
    assert one["trials_an_hour"] == pytest.approx(3600 / one["epoch_s"] / 3)
    assert two["gain"] == pytest.approx(two["trials_an_hour"] / one["trials_an_hour"])
    assert 0 < found["weight"]["peak_bytes"] < found["pool"]["total_bytes"]
    assert "memory is for" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="for hosts without a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--space", SPACE]) == 0
    assert capsys.readouterr().out.strip() == UNMEASURED


def test_bad_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--space", SPACE, "--epochs", "0"]) == 2
    assert "give at least 1" in capsys.readouterr().err
