"""Which checkpoints stay on disk."""

from pathlib import Path

import pytest

from lcnn.outcome import Outcome
from search.execution.checkpoints import CheckpointKeeper
from search.study.ledger import TrialRecord


def trial(number: int, best: float | None, outcome: Outcome | None = Outcome.COMPLETED) -> TrialRecord:
    return TrialRecord(number, {}, () if best is None else (best,), outcome, 1.0)


TRIALS = [
    trial(0, 0.1),  # the defaults, the worst of all
    trial(1, 0.5),
    trial(2, 0.7, Outcome.PRUNED),
    trial(3, 0.9, Outcome.DIVERGED),
    trial(4, 0.6),
    trial(5, None, Outcome.INFEASIBLE),
    trial(6, 0.6),
    trial(7, 0.8, None),
    trial(8, 0.95, Outcome.CRASHED),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for each in TRIALS:
        (tmp_path / str(each.number)).mkdir()
        for name in ("last.pt", "best.pt", "history.csv"):
            (tmp_path / str(each.number) / name).write_bytes(b"x")
    return tmp_path


def kept(folder: Path, name: str) -> list[int]:
    return sorted(int(path.parent.name) for path in folder.glob(f"*/{name}"))


@pytest.mark.parametrize("one_by_one", [True, False])
def test_the_best_the_defaults_and_what_runs_stay(folder: Path, one_by_one: bool) -> None:
    keeper = CheckpointKeeper(folder, 2, [] if one_by_one else TRIALS)
    for each in TRIALS if one_by_one else []:
        if each.outcome is not None:
            keeper.ended(each)
    assert kept(folder, "best.pt") == [0, 2, 4, 7]
    assert kept(folder, "last.pt") == [7]
    assert kept(folder, "history.csv") == [each.number for each in TRIALS]


def test_what_is_gone_already_is_no_fault(folder: Path) -> None:
    CheckpointKeeper(folder, 2, TRIALS)
    CheckpointKeeper(folder, 2, TRIALS)
    assert kept(folder, "best.pt") == [0, 2, 4, 7]
