"""The log of test openings: what it keeps, and that no line can be lost or changed unseen."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.common.errors import InputError
from search.run.folder import RunFolder
from search.run.openings import add_opening, check_openings, read_openings

REASONS = ("9 patients: final evaluation of winner, defaults", "9 patients: retraining of trial 1", "third #1")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "test_openings.log"
    for reason in REASONS:
        add_opening(path, reason)
    return path


def lines_of(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").splitlines()


def test_every_opening_leaves_a_line_with_its_time_and_reason(log: Path) -> None:
    lines = lines_of(log)
    assert [line.split(" ", 1)[1].rpartition(" #")[0] for line in lines] == list(REASONS)
    assert [line.rpartition(" #")[2] for line in lines] == read_openings(log)
    assert len(set(read_openings(log))) == 3


def test_a_log_that_is_not_there_holds_no_opening(tmp_path: Path) -> None:
    assert read_openings(tmp_path / "none.log") == []
    assert not (tmp_path / "none.log").exists()


TAMPERED: dict[str, Callable[[list[str]], list[str]]] = {
    "first line gone": lambda lines: lines[1:],
    "middle line gone": lambda lines: [lines[0], lines[2]],
    "lines swapped": lambda lines: [lines[1], lines[0], lines[2]],
    "a reason changed": lambda lines: [lines[0].replace("final", "trial"), *lines[1:]],
    "a time changed": lambda lines: [*lines[:2], "1" + lines[2][1:]],
    "a line put in": lambda lines: [*lines, "2026-01-01T00:00:00+00:00 9 patients: nothing"],
    "a hash taken off": lambda lines: [*lines[:2], lines[2].rpartition(" #")[0]],
    "a line put first": lambda lines: ["2026-01-01T00:00:00+00:00 9 patients: nothing", *lines],
    "half a line": lambda lines: [*lines[:2], lines[2][:-3]],
}


@pytest.mark.parametrize("case", TAMPERED, ids=lambda case: case.replace(" ", "-"))
def test_a_tampered_log_is_refused_and_not_added_to(log: Path, case: str) -> None:
    log.write_text("\n".join(TAMPERED[case](lines_of(log))) + "\n", encoding="utf-8")
    before = log.read_bytes()
    with pytest.raises(
        InputError, match=r"line \d is not as it was written, or one before it is gone; restore the log"
    ):
        read_openings(log)
    with pytest.raises(InputError):
        add_opening(log, "one more")
    assert log.read_bytes() == before


def test_lines_of_an_earlier_version_stay_and_are_covered_by_the_first_hash(tmp_path: Path) -> None:
    log = tmp_path / "test_openings.log"
    log.write_text("2026-01-01T00:00:00+00:00 9 patients: final evaluation of winner\n", encoding="utf-8")
    assert read_openings(log) == []
    add_opening(log, "again")
    assert len(read_openings(log)) == 1
    log.write_text("\n".join(lines_of(log)[1:]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 1 is not as it was written"):
        read_openings(log)


def evaluated(run: RunFolder) -> None:
    """A run that was tested, and a trial of it that was retrained and tested."""
    (run.final / "1").mkdir(parents=True)
    for path in (run.evaluation, run.final / "1" / "evaluation.json"):
        run.log_test_opening(f"for {path.parent.name}")
        path.write_text(json.dumps({"opening": run.last_test_opening()}), encoding="utf-8")
    run.check_test_openings()


@pytest.mark.parametrize(
    ("kept", "stands"), [(0, "evaluation.json"), (1, "final/1/evaluation.json")], ids=["the log emptied", "the last"]
)
def test_an_evaluation_whose_opening_is_gone_is_refused(tmp_path: Path, kept: int, stands: str) -> None:
    run = RunFolder(tmp_path)
    evaluated(run)
    run.test_openings.write_text("".join(f"{line}\n" for line in lines_of(run.test_openings)[:kept]), encoding="utf-8")
    with pytest.raises(InputError, match=rf"on which {tmp_path / stands} stands, is gone; restore the log"):
        run.check_test_openings()


def test_a_log_that_was_deleted_is_missed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    evaluated(run)
    run.test_openings.unlink()
    with pytest.raises(InputError, match="is gone; restore the log"):
        run.check_test_openings()


def test_evaluations_of_an_earlier_version_name_no_opening(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text('{"winner": 3}', encoding="utf-8")
    check_openings(tmp_path / "test_openings.log", [tmp_path / "evaluation.json"])


@pytest.mark.parametrize("name", ["test_openings.log", "evaluation.json"])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=name) as caught:
        run.check_test_openings()
    assert "\n" not in str(caught.value)
