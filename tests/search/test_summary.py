"""What a gain is called, and evaluations that the summary cannot read."""

import shlex
from pathlib import Path

import pytest

from data_prep.common.errors import InputError
from lcnn.scoring.intervals import Estimate
from search.report.summary import gain_of, viewers
from search.run.evaluation import read_evaluation
from search.run.folder import RunFolder
from search.winner.final import overtuning


@pytest.mark.parametrize(
    ("gain", "p", "words"),
    [
        (Estimate(0.1, 0.02, 0.2, 9), 0.02, "better than the defaults"),
        (Estimate(-0.1, -0.2, -0.02, 9), 0.02, "worse than the defaults on test patients"),
        (Estimate(0.1, -0.02, 0.2, 9), 0.2, "no significant gain"),
        (Estimate(0.1, 0.01, 0.2, 9), 0.06, "no significant gain"),
        (Estimate(0.1, 0.02, 0.2, 5), 0.0625, "too few patients to say"),
        (Estimate(0.1, None, None, 1), 1.0, "too few patients to say"),
        (Estimate(None, None, None, 0), None, "too few patients to say"),
    ],
)
def test_a_gain_is_one_only_where_interval_and_test_agree(gain: Estimate, p: float | None, words: str) -> None:
    assert gain_of(gain, p) == words


def test_commands_of_a_folder_with_a_space_can_be_pasted(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "my results" / "lcnn")
    run.root.mkdir(parents=True)
    run.study.touch()
    study, curves = viewers(run)
    assert shlex.split(study)[1:] == ["optuna-dashboard", f"sqlite:///{run.study}"]
    assert shlex.split(curves)[1:] == ["tensorboard", "--logdir", str(run.tensorboard)]


@pytest.mark.parametrize(
    ("validation", "test", "gap"),
    [(0.75, 0.5, 0.25), (0.5, 0.75, -0.25), (None, 0.5, None), (0.5, None, None)],
)
def test_overtuning_is_validation_minus_test(validation: float | None, test: float | None, gap: float | None) -> None:
    assert overtuning(validation, {"mean": test}) == {"validation": validation, "test": test, "gap": gap}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"winner": 3, "difference": {}}', "written by an earlier version.*delete it and give the command"),
        ('{"format": 2', "damaged .*delete it to have it made again"),
    ],
)
def test_an_evaluation_that_cannot_be_read_is_refused_with_the_remedy(tmp_path: Path, content: str, said: str) -> None:
    run = RunFolder(tmp_path)
    run.evaluation.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        read_evaluation(run)
    assert "\n" not in str(caught.value)
