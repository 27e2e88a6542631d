"""Event files as TensorBoard itself reads them: every epoch once, whatever was interrupted."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from curves import epoch_result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from data_prep.common.files import write_text_atomically
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult, history_csv
from search.run.folder import RunFolder
from search.study.ledger import TrialRecord
from search.tracking.tensorboard import write_tensorboard, write_trial

ENDED = 1_700_000_000
"""When the last epoch of a history ended, in seconds since 1970."""
CURVE = (0.1, 0.4, 0.3)
PARAMS = {"T": 2, "optim.lr": 1e-3, "schedule": "polynomial"}
TRIAL = TrialRecord(3, PARAMS, CURVE, Outcome.COMPLETED, seconds=3.0)
SCALARS = {
    "validation/dice",
    "loss/total",
    "loss/dice",
    "loss/cross_entropy",
    "loss/alignment",
    "optim/lr",
    "alignment/angle_deg",
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def write_history(folder: Path, curve: Sequence[float | None], ended: int = ENDED) -> list[EpochResult]:
    epochs = [replace(epoch_result(epoch, 0.0), val_dice=value) for epoch, value in enumerate(curve, start=1)]
    write_text_atomically(folder / "history.csv", history_csv(epochs))
    os.utime(folder / "history.csv", (ended, ended))
    return epochs


def read(run: RunFolder, key: str) -> EventAccumulator:
    events = EventAccumulator(str(run.tensorboard / key))
    events.Reload()
    return events


def values(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def test_a_trial_has_every_figure_of_every_epoch_at_its_time(run: RunFolder) -> None:
    epochs = write_history(run.trials / "3", CURVE)
    write_tensorboard(run, [TRIAL])
    events = read(run, "trials/3")
    assert set(events.Tags()["scalars"]) == {*SCALARS, "best_val_dice"}
    assert values(events, "validation/dice") == list(enumerate(CURVE, start=1))
    assert values(events, "optim/lr") == [(epoch.epoch, epoch.lr) for epoch in epochs]
    assert values(events, "best_val_dice") == [(2, 0.4)]
    times = [event.wall_time for event in events.Scalars("loss/total")]
    assert times == pytest.approx([ENDED - epochs[1].seconds - epochs[2].seconds, ENDED - epochs[2].seconds, ENDED])


def test_its_settings_are_there_to_compare_trials_by(run: RunFolder) -> None:
    write_history(run.trials / "3", CURVE)
    write_tensorboard(run, [TRIAL])
    metadata = read(run, "trials/3").SummaryMetadata("_hparams_/session_start_info")
    told = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert (told["T"].number_value, told["optim.lr"].number_value) == (2, 1e-3)
    assert told["schedule"].string_value == "polynomial"


def test_a_run_that_goes_on_has_no_epoch_twice(run: RunFolder) -> None:
    write_history(run.trials / "3", CURVE[:2])
    write_trial(run, replace(TRIAL, curve=CURVE[:2]))
    write_history(run.trials / "3", CURVE, ended=2_000_000_000)  # a later epoch than any file of today
    write_trial(run, TRIAL)
    assert values(read(run, "trials/3"), "validation/dice") == list(enumerate(CURVE, start=1))
    assert len(list((run.tensorboard / "trials" / "3").iterdir())) == 1


def test_what_is_up_to_date_is_left_alone(run: RunFolder) -> None:
    write_history(run.trials / "3", CURVE)
    write_history(run.final / "3", (None,))
    write_tensorboard(run, [TRIAL])
    before = {path: path.stat().st_mtime_ns for path in run.tensorboard.rglob("*")}
    write_tensorboard(run, [TRIAL])
    assert {path: path.stat().st_mtime_ns for path in run.tensorboard.rglob("*")} == before


def test_an_epoch_that_the_study_does_not_know_is_left_out(run: RunFolder) -> None:
    write_history(run.trials / "3", (*CURVE, 0.9))
    write_trial(run, replace(TRIAL, outcome=Outcome.PRUNED))
    assert values(read(run, "trials/3"), "validation/dice") == list(enumerate(CURVE, start=1))


def test_confirmations_folds_and_final_trainings_are_there_too(run: RunFolder) -> None:
    for folder in (run.confirm / "3-1", run.trials / "3" / "fold-0"):
        write_history(folder, CURVE)
    write_history(run.final / "3", (None, None))
    write_tensorboard(run, [TRIAL])
    for key in ("confirm/3-1", "trials/3/fold-0"):
        assert values(read(run, key), "validation/dice") == list(enumerate(CURVE, start=1))
    final = read(run, "final/3")
    assert set(final.Tags()["scalars"]) == SCALARS - {"validation/dice"}  # it has no validation patients
    assert [step for step, _ in values(final, "loss/total")] == [1, 2]


def test_a_trial_whose_history_is_elsewhere_has_its_dice_from_the_study(run: RunFolder) -> None:
    write_tensorboard(run, [TRIAL])
    assert values(read(run, "trials/3"), "validation/dice") == list(enumerate(CURVE, start=1))


@pytest.mark.parametrize("outcome", [None, Outcome.INFEASIBLE], ids=["unfinished", "without-an-epoch"])
def test_a_trial_without_a_value_is_no_error(run: RunFolder, outcome: Outcome | None) -> None:
    write_tensorboard(run, [replace(TRIAL, curve=(), outcome=outcome)])
    assert not list(run.root.rglob("*.partial"))
