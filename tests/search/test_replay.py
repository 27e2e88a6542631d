"""What a replay finds; that a real trial replays bit for bit, tests/e2e shows."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_cohort import TINY, tiny_context

from lcnn.outcome import Outcome
from search.commands.replay import EpochDifference, compare, replay_context, report
from search.execution.trainings import Trained
from search.execution.trial import start_training
from search.placement.resources import Slots
from search.run.folder import RunFolder
from search.study.ledger import TrialRecord

HERE = {"python": "3.11.1", "packages": {"torch": "2.13", "ray": "2.60"}, "platform": "Linux", "cores": 2, "gpus": []}


def record(outcome: Outcome = Outcome.COMPLETED) -> TrialRecord:
    return TrialRecord(4, {}, (0.1, 0.2, 0.3), outcome, 3.0)


@pytest.mark.parametrize(
    ("recorded", "replayed", "identical"),
    [
        (Outcome.COMPLETED, Outcome.COMPLETED, True),
        (Outcome.PRUNED, Outcome.COMPLETED, True),  # it is replayed up to where it was stopped
        (Outcome.COMPLETED, Outcome.DIVERGED, False),
        (Outcome.DIVERGED, Outcome.DIVERGED, True),
        (Outcome.DIVERGED, Outcome.COMPLETED, False),
    ],
)
def test_the_outcome_counts(recorded: Outcome, replayed: Outcome, identical: bool) -> None:
    found = compare(record(recorded), Trained(replayed, (0.1, 0.2, 0.3)), HERE, HERE)
    assert found.is_identical == identical
    assert ("identical to the record" in "\n".join(report(found, 3))) == identical


def test_every_epoch_that_differs_is_told() -> None:
    found = compare(record(), Trained(Outcome.COMPLETED, (0.1, 0.25)), HERE, HERE)
    assert found.epochs == (EpochDifference(2, 0.2, 0.25), EpochDifference(3, 0.3, None))
    lines = report(found, 3)
    assert "epoch 2: recorded 0.200000, replayed 0.250000" in lines[0]
    assert "epoch 3: recorded 0.300000, replayed nothing" in lines[1]


def test_another_environment_is_told_but_is_no_difference() -> None:
    now = {**HERE, "packages": {"torch": "2.14", "ray": "2.60"}, "commit": "abc"}
    found = compare(record(), Trained(Outcome.COMPLETED, (0.1, 0.2, 0.3)), HERE, now)
    assert found.is_identical
    assert found.environment == {"commit": (None, "abc"), "torch": ("2.13", "2.14")}
    assert "torch was 2.13, is 2.14" in "\n".join(report(found, 3))


def test_a_replay_goes_on_from_no_storage(tmp_path: Path) -> None:
    """Else the second replay of a trial would find the first one's checkpoint, train nothing, and call it equal."""
    run, storage = RunFolder(tmp_path / "run"), tmp_path / "storage"
    context = replay_context(replace(tiny_context(tmp_path, Slots(1, 1, 0.0, 0, "cpu")), checkpoints=str(storage)), run)
    with_storage = replace(context, checkpoints=str(storage))
    list(start_training(with_storage, "0", TINY, 0.0))
    before = sorted(storage.rglob("*"))
    assert before
    assert len(list(start_training(context, "0", TINY, 0.0))) == TINY.train.epochs
    assert (context.folder / "0" / "last.pt").exists()  # it trained, here
    assert sorted(storage.rglob("*")) == before
