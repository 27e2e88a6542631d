"""Searches compared: what a run cost, what is grouped, what is refused, and that little is claimed from little."""

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from data_prep.cohort.split import Split
from data_prep.common.files import write_text_atomically
from experiments import compare
from experiments.search_record import End, SearchRecord, differences, read_search, repeated_seeds
from lcnn.outcome import Outcome
from search.run.folder import RunFolder, write_spec
from search.run.study import open_ledger
from search.spec.settings import Overrides, Spec, load_spec
from search.spec.space import SearchSpace

SPACE_FILE = Path(__file__).parents[2] / "spaces" / "lcnn.yaml"
CONDITIONS = {"cohort": "c0ffee", "profile": "cpu", "epochs": 9}
TRIALS = ((Outcome.COMPLETED, (0.2, 0.5, 0.4)), (Outcome.PRUNED, (0.6,)), (Outcome.DIVERGED, (0.9, 0.9)))
"""Outcome and curve; an epoch takes 10 seconds."""


def record(name: str, bests: list[float | None], method: str = "tpe", seed: int = 0) -> SearchRecord:
    ends = tuple(End(3, 30.0, best) for best in bests)
    return SearchRecord(name, ends, CONDITIONS, method, (seed, 0), synthetic=True)


def write_run(folder: Path, *settings: str, cohort: str = "c0ffee") -> tuple[RunFolder, Spec]:
    """A run folder without its trials."""
    folder.mkdir()
    spec = load_spec(SPACE_FILE, Overrides("cpu", ("cohort.root=nowhere", *settings)), has_gpu=False)
    run = RunFolder(folder)
    write_spec(run, spec)
    split = Split(cohort_hash=cohort, seed=0, train=("a",), val=("b",), test=("c",))
    write_text_atomically(run.split, split.model_dump_json())
    return run, spec


def write_search(folder: Path, *settings: str, cohort: str = "c0ffee", gain: float = 0.0) -> Path:
    """A run with a trial of each kind, a crashed one, and one that is not done."""
    run, spec = write_run(folder, *settings, cohort=cohort)
    ledger = open_ledger(run, spec, SearchSpace(spec.search, spec.training, "file"))
    for outcome, values in (*TRIALS, (Outcome.CRASHED, (0.95,))):
        number = ledger.ask()
        ledger.draw_params(number)
        for epoch, value in enumerate(values, start=1):
            ledger.record_epoch(number, epoch, value + gain, 10.0 * epoch)
        ledger.finish(number, outcome)
    ledger.draw_params(ledger.ask())
    return folder


def write_sweep(folder: Path) -> Path:
    """A sweep with the same trials; of the pruned one, no end is told."""
    run, _ = write_run(folder)
    for index, (outcome, values) in enumerate(TRIALS):
        told = {"outcome": None if outcome == Outcome.PRUNED else outcome.value, "told": f"2026-01-01T00:0{index}"}
        trial: dict[str, Any] = {**told, "curve": values, "seconds": 10.0 * len(values), "params": {}}
        write_text_atomically(run.trials / f"id{9 - index}" / "trial.json", json.dumps(trial))
    return folder


@pytest.mark.parametrize("write", [write_search, write_sweep])
def test_a_trial_counts_from_its_end_with_all_that_it_took(tmp_path: Path, write: Any) -> None:
    run = read_search(write(tmp_path / "run"))
    assert run.ends == (End(3, 30.0, 0.5), End(1, 10.0, 0.6), End(2, 20.0, None)), "a crash is no part of the search"
    assert run.effort("epochs") == [3, 4, 6]
    assert run.effort("seconds") == [30, 40, 60]
    assert [run.best_after("epochs", effort) for effort in (3, 3.9, 4, 6)] == [0.5, 0.5, 0.6, 0.6]
    assert math.isnan(run.best_after("epochs", 2.9))
    assert math.isnan(run.best_after("epochs", 6.1)), "what more effort had brought, nobody knows"


def test_runs_that_differ_in_seeds_alone_are_one_search(tmp_path: Path) -> None:
    first = write_search(tmp_path / "tpe-s0")
    again = write_search(tmp_path / "tpe-s1", "sampler.seed=1", "train.seed=1", "budget.trials=20")
    other = write_search(tmp_path / "random", "sampler.name=random")
    sweep = write_sweep(tmp_path / "sweep")
    methods = compare.methods_of([read_search(path) for path in (first, other, again, sweep)])
    grouped = {method.name: [run.name for run in method.runs] for method in methods}
    assert grouped == {"tpe": ["tpe-s0", "tpe-s1"], "random": ["random"], "sweep": ["sweep"]}


def test_means_have_intervals_from_three_runs_on() -> None:
    assert math.isnan(compare.mean_over_runs([0.5, 0.7]).low)
    mean = compare.mean_over_runs([0.5, 0.6, 0.7])
    # Student's t of 2 degrees of freedom is 4.3027; the standard error is 0.1 / sqrt(3).
    assert (mean.low, mean.high) == pytest.approx((0.6 - 0.24841, 0.6 + 0.24841), abs=1e-4)
    assert math.isnan(compare.mean_over_runs([0.5, 0.6, math.nan]).mean), "two of three are no fair sample"


def test_curves_end_where_their_shortest_run_ends() -> None:
    method = compare.Method("tpe", (record("a", [0.5, 0.6]), record("b", [0.3], seed=1)))
    assert compare.curve(method, "trials").x == [1.0]
    assert compare.curve(method, "epochs").x[-1] == 3.0
    assert compare.curve(method, "epochs").mean[-1] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ([0.7], [0.5], "That does not show which search is better"),
        ([0.7, 0.72, 0.71], [0.5, 0.52], "That does not show which search is better"),
        ([0.7, 0.72, 0.71], [0.5, 0.52, 0.51], "tpe is better here"),
        ([0.5, 0.52, 0.51], [0.7, 0.72, 0.71], "random is better here"),
        ([0.7, 0.5, 0.6], [0.5, 0.68, 0.6], "no difference is shown"),
        ([0.6, 0.6, 0.6], [0.6, 0.6, 0.6], "no difference is shown"),
        ([0.7, 0.7, 0.7], [None, 0.5, 0.5], "not every run had a value by then"),
    ],
)
def test_a_verdict_claims_what_the_runs_allow(ours: list[float], theirs: list[float | None], said: str) -> None:
    a = compare.Method("tpe", tuple(record(f"a{seed}", [best]) for seed, best in enumerate(ours)))
    b = compare.Method("random", tuple(record(f"b{seed}", [best]) for seed, best in enumerate(theirs)))
    (line,) = compare.verdict([a, b])
    assert said in line


def test_several_comparisons_are_corrected() -> None:
    assert compare.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert compare.holm([]) == []


def test_the_command_writes_curves_a_table_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_search(tmp_path / f"tpe-{seed}", f"sampler.seed={seed}", gain=seed / 100) for seed in range(3)]
    runs.append(write_sweep(tmp_path / "sweep & co"))
    out = tmp_path / "out"
    assert compare.main([*map(str, runs), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "cohort not known" in said
    assert "0.610 [0.585, 0.635]" in said
    assert "That does not show which search is better" in said
    curves = pd.read_csv(out / "compare.csv")
    assert set(curves["axis"]) == {"trials", "epochs", "seconds"}
    assert set(curves["search"]) == {"tpe (3 runs)", "sweep & co (1 run)"}
    picture = ET.parse(out / "compare.svg").getroot()
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"trials", "epochs", "seconds", "sweep & co (1 run)"} <= set(texts)
    assert "nan" not in (out / "compare.svg").read_text()


@pytest.mark.parametrize(
    ("settings", "cohort", "said"),
    [
        ((), "another", "cohort: c0ffee and another in one and two"),
        (("train.epochs=4",), "c0ffee", "epochs: 9 and 4 in one and two"),
        (("cohort.image_size=64",), "c0ffee", "image size: 96 and 64 in one and two"),
        (("folds.count=3",), "c0ffee", "folds: None and [3, 'repeats'] in one and two"),
    ],
)
def test_what_is_not_comparable_is_refused_unless_forced(
    tmp_path: Path, settings: tuple[str, ...], cohort: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(write_search(tmp_path / "one")), str(write_search(tmp_path / "two", *settings, cohort=cohort))]
    out = ["--out", str(tmp_path / "out")]
    assert compare.main([*runs, *out]) == 2
    assert f"not comparable: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert compare.main([*runs, *out, "--force"]) == 0
    assert "NOT COMPARABLE" in capsys.readouterr().out


def test_a_split_is_compared_without_naming_its_patients() -> None:
    one, two = (SearchRecord(n, (), {"split": [n]}, "tpe", (0, 0), True) for n in ("one", "two"))
    assert differences([one, two]) == ["split: other patients in one and two"]


def test_a_copy_of_a_run_is_no_repetition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert repeated_seeds([record("a", [0.1]), record("b", [0.1], seed=1), record("c", [0.1])]) == ("a", "c")
    assert repeated_seeds([record("a", [0.1]), record("b", [0.1], method="random")]) is None
    run = str(write_search(tmp_path / "one"))
    assert compare.main([run, run]) == 2
    assert "named twice" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "{}", '{"outcome": "won", "curve": [], "seconds": 1, "told": ""}'])
def test_a_damaged_sweep_is_named(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path / "sweep")
    (folder / "trials" / "id9" / "trial.json").write_text(content)
    assert compare.main([str(folder)]) == 2
    assert "trial.json: damaged" in capsys.readouterr().err


def test_a_run_without_a_trial_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "new")
    assert compare.main([str(tmp_path / "new")]) == 2
    assert "no trial has ended yet" in capsys.readouterr().err
