"""The preparation's figures: all kinds of work are measured, and bad input is one line."""

import json
from pathlib import Path

import pytest

from experiments.preparation import WORK, main, measure_speed, write_noise


def test_every_kind_of_work_is_timed(tmp_path: Path) -> None:
    write_noise(tmp_path / "c", patients=2, slices=3, side=48)
    seconds = measure_speed(tmp_path / "c")
    assert seconds.keys() == WORK.keys()
    assert min(seconds.values()) > 0


def test_memory_is_told_by_number_of_patients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "memory", "--patients", "1", "--out", str(tmp_path / "m.json")]) == 0
    figures = json.loads((tmp_path / "m.json").read_text())
    assert set(figures["memory"]) == set(WORK)
    assert all(by_count["1"] > 10 for by_count in figures["memory"].values())
    assert "SYNTHETIC" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--patients", "0"]) == 2
    assert main(["--only", "speed", "--cohort", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
