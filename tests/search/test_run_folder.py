"""Run folders: one search each, one command at a time, nothing half-written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.common.errors import InputError
from search.run.folder import RunFolder, check_spec, write_environment, write_spec
from search.spec.settings import Spec, validate_spec

ROOT = Path(__file__).parents[2]


def spec(**changes: object) -> Spec:
    return validate_spec({"name": "small", "search": {"optim.lr": {"log": [1e-4, 1e-2]}}, **changes}, "test")


def test_a_spec_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert check_spec(run, spec()) is False
    write_spec(run, spec())
    assert run.read_spec() == spec()
    assert check_spec(run, spec()) is True


def test_a_run_that_names_the_former_alignment_goes_on_where_it_was_off(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    write_spec(run, spec())
    text = run.spec.read_text(encoding="utf-8")
    assert text.count("  strip_skull: false\n") == 1
    for value in ("false", "true"):
        former = text.replace("  strip_skull: false\n", f"  strip_skull: false\n  align_midline: {value}\n")
        run.spec.write_text(former, encoding="utf-8")
        if value == "false":
            assert check_spec(run, spec()) is True
        else:
            with pytest.raises(InputError, match=r"spec\.yaml: cohort: align_midline: .* no longer .*; leave it out"):
                check_spec(run, spec())


def test_a_longer_budget_is_the_same_search(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    write_spec(run, spec(budget={"trials": 4}))
    assert check_spec(run, spec(budget={"trials": 8}))


def test_another_search_is_refused_with_the_difference_and_the_remedy(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    write_spec(run, spec())
    with pytest.raises(InputError, match=r"holds another search \(optim.lr: was 0.001, now 0.002\).*--name"):
        check_spec(run, spec(optim={"lr": 0.002}))
    assert run.read_spec() == spec()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder(tmp_path).read_spec()


def test_a_second_command_on_the_same_run_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from search.run.folder import RunFolder; "
        "from data_prep.common.errors import InputError\n"
        "try:\n with RunFolder(Path(sys.argv[1])).locked(): print('entered')\n"
        "except InputError as error: print(error)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with RunFolder(tmp_path / "run").locked():
        inside = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    after = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "another command is working on this run" in inside.stdout
    assert after.stdout.strip() == "entered"


def test_a_results_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"), RunFolder(tmp_path / "file" / "run").locked():
        pass


def test_a_folder_in_which_nothing_was_done_goes_away(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunFolder(tmp_path / "run").locked():
        raise KeyError
    assert not (tmp_path / "run").exists()


def test_the_environment_names_versions_and_adds_up_over_sessions(tmp_path: Path) -> None:
    import json

    run = RunFolder(tmp_path)
    write_environment(run)
    write_environment(run)
    sessions = json.loads((tmp_path / "environment.json").read_text(encoding="utf-8"))
    assert len(sessions) == 2
    assert set(sessions[0]["packages"]) >= {"torch", "ray", "optuna"}
    assert sessions[0]["cores"] == os.cpu_count()
