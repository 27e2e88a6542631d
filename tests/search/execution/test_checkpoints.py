"""Which checkpoints stay on disk, and in the run's storage."""

from dataclasses import replace
from pathlib import Path

import pytest
from quick import quick_context

from lcnn.outcome import Outcome
from search.execution.checkpoints import CheckpointKeeper
from search.execution.trial import TrialContext, stored_as
from search.placement.resources import Slots
from search.run.checkpoint_store import CheckpointStore
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
def context(tmp_path: Path) -> TrialContext:
    context = quick_context(tmp_path / "run", Slots(1, 1, 0.0, 0, "cpu"), checkpoints=None)
    write_trainings(context.folder)
    return context


def write_trainings(folder: Path) -> None:
    for each in TRIALS:
        for name in ("last.pt", "best.pt", "history.csv"):
            file = folder / str(each.number) / name
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_bytes(b"x")


def kept(folder: Path, name: str) -> list[int]:
    return sorted(int(path.parent.name) for path in folder.glob(f"*/{name}"))


def check_kept(folder: Path) -> None:
    assert kept(folder, "best.pt") == [0, 2, 4, 7]
    assert kept(folder, "last.pt") == [7]
    assert kept(folder, "history.csv") == [each.number for each in TRIALS]


def end(context: TrialContext, *, one_by_one: bool) -> None:
    keeper = CheckpointKeeper(context, 2, [] if one_by_one else TRIALS)
    for each in TRIALS if one_by_one else []:
        if each.outcome is not None:
            keeper.ended(each)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_the_best_the_defaults_and_what_runs_stay(context: TrialContext, one_by_one: bool) -> None:
    end(context, one_by_one=one_by_one)
    check_kept(context.folder)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_the_storage_keeps_no_more_than_the_run_folder(context: TrialContext, tmp_path: Path, one_by_one: bool) -> None:
    context = replace(context, checkpoints=str(tmp_path / "storage"))
    stored = tmp_path / "storage" / stored_as(context, "")
    write_trainings(stored)
    write_trainings(stored / "1-fold")  # of another kind; nobody's loser
    end(context, one_by_one=one_by_one)
    check_kept(stored)
    assert len(list((stored / "1-fold").glob("*/*"))) == 3 * len(TRIALS)


def test_the_folds_of_a_loser_leave_the_storage_too(context: TrialContext, tmp_path: Path) -> None:
    context = replace(context, checkpoints=str(tmp_path / "storage"))
    stored = tmp_path / "storage" / stored_as(context, "5/fold-0")
    write_trainings(stored.parent.parent)
    stored.mkdir()
    (stored / "best.pt").write_bytes(b"x")
    end(context, one_by_one=True)
    assert CheckpointStore(str(tmp_path / "storage")).files(stored_as(context, "5")) == [
        stored_as(context, "5/history.csv")
    ]


def test_what_is_gone_already_is_no_fault(context: TrialContext) -> None:
    CheckpointKeeper(context, 2, TRIALS)
    CheckpointKeeper(context, 2, TRIALS)
    assert kept(context.folder, "best.pt") == [0, 2, 4, 7]
