"""Commands that are answered before anything runs: help, and bad input."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from the_command import SPACE, answer, execute

ROOT = Path(__file__).parents[2]
BAD = {
    "no arguments": ([], "required"),
    "both": (["--space", "a", "--retrain", "b"], "not allowed with"),
    "trial without a run": (["--space", "a", "--trial", "1"], "--trial goes with --retrain RUN or --replay RUN"),
    "replay without a trial": (["--replay", "a"], "--replay needs --trial N"),
    "trials that are no number": (["--space", "a", "--trials", "many"], "--trials: many is not a number"),
    "an extension by nothing": (["--space", "a", "--trials", "+0"], "+0 adds nothing"),
    "an extension of no run": (["--space", SPACE, "--hours", "+1"], "no run to extend"),
    "missing file": (["--space", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
    "no run": (["--retrain", "nowhere"], "nowhere: not a run folder"),
    "missing cohort": (["--space", SPACE, "--set", "cohort.root=typo"], "cohort.root: typo"),
    "missing cohort, dry": (
        ["--space", SPACE, "--set", "cohort.root=typo", "--dry-run"],
        "cohort.root: typo",
    ),
    "trials below nothing": (["--space", SPACE, "--trials", "-3"], "--trials: -3 is no amount"),
    "no end of hours": (["--space", SPACE, "--hours", "inf"], "--hours: inf is no amount"),
    "a name of two words": (
        ["--space", SPACE, "--name", "my study"],
        "name: is no name of a run; write letters, digits, dots, hyphens and underscores, like lcnn-t2",
    ),
    "impossible budget": (["--space", SPACE, "--hours", "0"], "budget.hours"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_ends_with_exit_code_2_and_no_traceback(tmp_path: Path, case: str) -> None:
    arguments, words = BAD[case]
    done = answer(arguments, tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert gc.get_freeze_count() == 0  # whoever calls the command keeps a collector that sees everything


def test_a_process_ends_in_the_same_way(tmp_path: Path) -> None:
    arguments, _ = BAD["missing cohort"]
    done, told = execute(arguments, tmp_path), answer(arguments, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (told.returncode, told.stdout, told.stderr)
    assert done.returncode == 2


def test_help_teaches(tmp_path: Path) -> None:
    done = answer(["--help"], tmp_path)
    assert done.returncode == 0
    for word in ("examples:", "exit codes", "--dry-run", "cohort.root=DATA"):
        assert word in done.stdout


@pytest.mark.parametrize("fault", ["optimm: 3", "search: {optim.lrr: {log: [1.0e-5, 1.0e-2]}}"])
def test_a_wrong_space_file_is_answered_without_waiting_for_torch_or_ray(tmp_path: Path, fault: str) -> None:
    (tmp_path / "wrong.yaml").write_text(fault, encoding="utf-8")
    answer = "import sys, run_search; print(run_search.main(sys.argv[1:]), {'torch', 'ray'} & set(sys.modules))"
    command = [sys.executable, "-c", answer, "--space", str(tmp_path / "wrong.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "2 set()\n"
    assert "did you mean optim" in done.stderr
