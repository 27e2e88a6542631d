"""Training: it learns, resumes bit for bit, ends for the stated reasons, and every setting reaches it."""

import csv
import dataclasses
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import typing

import numpy as np
import pytest
import torch
from pydantic import BaseModel

import lcnn.network.model
import lcnn.training.fit
from data_prep.common.errors import InputError
from lcnn.checkpoint import load_checkpoint, save_checkpoint
from lcnn.config import CosineRestarts, OneCycle, Polynomial, TrainConfig
from lcnn.inference.model_file import load_model
from lcnn.network.model import LCNN, build_model
from lcnn.network.stacks import OVERVIEW, StackSource, overview
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult, TrainingData, count_patients, fit, make_optimizer, resolve_precision
from lcnn.training.schedule import lr_factor

EPOCHS = 12
OVERFIT = {
    "model.width": 8,
    "fusion.local": 0.8,
    "loss.alignment": 0.0,
    "optim.lr": 2e-2,
    "schedule": {"name": "one_cycle"},
    "augment": {"flip": 0.0, "rotation_deg": 0.0, "shift": 0.0, "scale": (1.0, 1.0)},
    "train.epochs": EPOCHS,
    "train.stacks_per_epoch": 16,
}


def drain(training):
    """All results of a training, and its outcome."""
    results = []
    while True:
        try:
            results.append(next(training))
        except StopIteration as end:
            return results, end.value


def untimed(results):
    return [dataclasses.replace(result, seconds=0.0) for result in results]


def assert_same_state(one, other):
    """Equal to the last bit, whatever the nesting."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_state(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same_state(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_same_training(one, other):
    """Two folders hold the same training, but for the time that it took."""
    states = [load_checkpoint(folder / "last.pt") for folder in (one, other)]
    for state in states:
        for entry in state["history"]:
            entry["seconds"] = 0.0
    assert_same_state(*states)


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory, make_config, four_stacks):
    folder = tmp_path_factory.mktemp("overfitted")
    config = make_config(OVERFIT)
    results, outcome = drain(fit(config, four_stacks, folder=folder))
    return folder, config, results, outcome


def test_a_network_learns_four_stacks_by_heart(overfitted):
    _, _, results, outcome = overfitted
    assert outcome is Outcome.COMPLETED
    assert [result.epoch for result in results] == list(range(1, EPOCHS + 1))
    assert results[-1].val_dice > 0.95
    assert results[-1].loss < 0.3 * results[0].loss
    assert all(result.seconds > 0 for result in results)


def test_the_loss_parts_of_an_epoch_add_up(make_config, data):
    for result in fit(make_config({"loss.dice": 0.3, "loss.alignment": 2.0}), data, epochs=2):
        parts = 0.3 * result.dice_loss + 0.7 * result.cross_entropy + 2.0 * result.alignment_loss
        assert result.loss == pytest.approx(parts, rel=1e-5)
        assert result.alignment_loss > 0


def test_last_and_best_hold_the_networks_that_scored_their_dice(overfitted, four_stacks):
    folder, config, results, _ = overfitted
    best = max(result.val_dice for result in results)
    for name, dice in (("last.pt", results[-1].val_dice), ("best.pt", best)):
        trained = load_model(folder / name)
        assert trained.config == config
        assert (trained.picture.image_size, trained.picture.crop) == (
            four_stacks.store.picture.image_size,
            four_stacks.store.picture.crop,
        )
        (counts,) = count_patients(
            trained.net, StackSource(four_stacks.store, ["d"], config.T), 1, batch_size=3, dtype=torch.float32
        )
        assert counts.dice == pytest.approx(dice)


def test_history_csv_has_a_column_a_figure_and_a_row_an_epoch(overfitted):
    folder, _, results, _ = overfitted
    with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [field.name for field in dataclasses.fields(EpochResult)]
    assert list(rows[0]) == names
    assert names[0] == "epoch"
    assert [[float(row[name]) for name in names] for row in rows] == [list(dataclasses.astuple(r)) for r in results]


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory, make_config, data):
    folder = tmp_path_factory.mktemp("one_go")
    config = make_config()
    results, outcome = drain(fit(config, data, folder=folder))
    assert outcome is Outcome.COMPLETED
    return folder, config, results


def test_a_closed_training_resumes_as_if_it_had_never_stopped(tmp_path, in_one_go, data):
    folder, config, whole = in_one_go
    training = fit(config, data, folder=tmp_path)
    first = [next(training), next(training)]
    training.close()
    torch.rand(7)  # whatever happened to the process's own chance meanwhile
    again, outcome = drain(fit(config, data, folder=tmp_path))
    assert outcome is Outcome.COMPLETED
    assert again[:2] == first
    assert untimed(again) == untimed(whole)
    assert_same_training(tmp_path, folder)


def test_a_training_without_a_folder_is_the_same_training(in_one_go, data):
    _, config, whole = in_one_go
    assert untimed(fit(config, data)) == untimed(whole)


def test_a_training_that_was_killed_resumes_as_if_it_had_never_stopped(tmp_path, in_one_go, data):
    folder, config, whole = in_one_go
    script = textwrap.dedent(
        """
        import json, os, signal, sys
        from pathlib import Path
        import torch
        from data_prep.cohort.normalisation import Normalisation
        from data_prep.cohort.store import Store
        from lcnn.config import TrainConfig
        from lcnn.training.fit import TrainingData, fit

        torch.set_num_threads(1)
        given = json.loads(sys.argv[1])
        data = TrainingData(Store.open(Path(given["store"])), given["train"], given["val"],
                            Normalisation(**given["normalisation"]))
        for result in fit(TrainConfig.model_validate_json(given["config"]), data, folder=Path(given["folder"])):
            if result.epoch == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    given = {
        "store": str(data.store.folder),
        "train": data.train,
        "val": data.val,
        "normalisation": data.normalisation.model_dump(),
        "config": config.model_dump_json(),
        "folder": str(tmp_path),
    }
    killed = subprocess.run(
        [sys.executable, "-c", script, json.dumps(given)],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(load_checkpoint(tmp_path / "last.pt")["history"]) == 2
    again, outcome = drain(fit(config, data, folder=tmp_path))
    assert outcome is Outcome.COMPLETED
    assert untimed(again) == untimed(whole)
    assert_same_training(tmp_path, folder)


def test_the_gradient_scaler_is_kept_for_float16(tmp_path, make_config, data):
    config = make_config({"train.precision": "fp16"})
    drain(fit(config, data, folder=tmp_path, epochs=1))
    state = load_checkpoint(tmp_path / "last.pt")
    assert state["scaler"]["scale"] > 1
    state["scaler"]["scale"] = 2.0
    save_checkpoint(tmp_path / "last.pt", state)
    drain(fit(config, data, folder=tmp_path, epochs=2))
    assert load_checkpoint(tmp_path / "last.pt")["scaler"]["scale"] == 2.0


def test_each_epoch_shows_other_stacks_in_another_order(make_config, data, monkeypatch):
    shown = []
    batch = StackSource.batch

    def recording(source, positions):
        shown.extend(positions.tolist())
        return batch(source, positions)

    monkeypatch.setattr(StackSource, "batch", recording)
    drain(fit(make_config(), dataclasses.replace(data, val=()), epochs=3))
    epochs = [tuple(shown[i : i + 8]) for i in range(0, 24, 8)]
    assert len(shown) == 24
    assert len(set(epochs)) == 3


def test_every_step_of_every_seed_draws_its_own_augmentation(make_config, data, monkeypatch):
    drawn = []
    draw = lcnn.training.fit.draw_affine
    monkeypatch.setattr(lcnn.training.fit, "draw_affine", lambda *given: (drawn.append(draw(*given)), drawn[-1])[1])
    for seed in (0, 1, 0):
        drain(fit(make_config({"train.seed": seed}), dataclasses.replace(data, val=()), epochs=2))
    unique = {tuple(matrix.flatten().tolist()) for matrices in drawn for matrix in matrices}
    assert sum(len(matrices) for matrices in drawn) == 3 * 16
    assert len(unique) == 2 * 16


def test_what_the_network_sees_is_what_the_loss_compares_with(make_config, data, monkeypatch):
    # Lesions of this cohort are brighter than all else, so that each batch can be checked after augmentation.
    seen, compared = [], []
    forward, loss = LCNN.forward, lcnn.training.fit.lcnn_loss
    monkeypatch.setattr(LCNN, "forward", lambda model, grey: (seen.append(grey), forward(model, grey))[1])
    monkeypatch.setattr(
        lcnn.training.fit,
        "lcnn_loss",
        lambda says, lesion, *rest: (compared.append(lesion), loss(says, lesion, *rest))[1],
    )
    config = make_config({"augment": {"flip": 0.5, "rotation_deg": 60.0, "shift": 0.2, "scale": (0.8, 1.5)}})
    drain(fit(config, dataclasses.replace(data, val=()), epochs=2))
    bright, lesion = torch.cat(seen)[:, OVERVIEW + 1] > 160, torch.cat(compared) > 0.5
    assert len(bright) == 16
    assert lesion.any(dim=(1, 2)).sum() >= 10
    assert 2 * (bright & lesion).sum() / (bright.sum() + lesion.sum()) > 0.9
    assert torch.cat(compared).max() <= 1
    assert torch.cat(seen).max() > 150


def test_a_finished_training_is_told_again_without_training(tmp_path, make_config, data, monkeypatch):
    config = make_config({"train.epochs": 1})
    first, _ = drain(fit(config, data, folder=tmp_path))
    monkeypatch.setattr(lcnn.training.fit, "lcnn_loss", None)  # a step would fail
    assert drain(fit(config, data, folder=tmp_path)) == (first, Outcome.COMPLETED)


def test_a_training_killed_before_its_last_history_row_gets_it_on_resume(tmp_path, make_config, data):
    config = make_config({"train.epochs": 2})
    drain(fit(config, data, folder=tmp_path))
    whole = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").write_text("\n".join(whole.splitlines()[:2]) + "\n")  # as of the epoch before
    drain(fit(config, data, folder=tmp_path))
    assert (tmp_path / "history.csv").read_text() == whole


def test_the_next_epoch_is_kept_before_it_is_told(tmp_path, make_config, data):
    for result in fit(make_config({"train.epochs": 2}), data, folder=tmp_path):
        assert load_checkpoint(tmp_path / "last.pt")["history"][-1] == dataclasses.asdict(result)
        assert len((tmp_path / "history.csv").read_text().splitlines()) == result.epoch + 1


def test_stopping_earlier_keeps_the_schedule(tmp_path, make_config, data):
    config = make_config({"schedule": {"name": "polynomial", "power": 1.0}, "optim.lr": 1e-2})
    short, outcome = drain(fit(config, data, folder=tmp_path, epochs=1))
    assert outcome is Outcome.COMPLETED
    # Two steps an epoch: the last step of the first of four epochs lies an eighth into the budget.
    assert [result.lr for result in short] == pytest.approx([1e-2 * 7 / 8])
    longer, _ = drain(fit(config, data, folder=tmp_path, epochs=3))
    assert longer[:1] == short
    assert [result.lr for result in longer] == pytest.approx([1e-2 * share for share in (7 / 8, 5 / 8, 3 / 8)])


@pytest.mark.parametrize("schedule", [CosineRestarts(t0=1), OneCycle(), Polynomial()])
def test_each_schedule_sets_the_rate_of_every_group(make_config, data, monkeypatch, schedule):
    rates = []
    step = torch.optim.AdamW.step

    def recording(optimizer, *arguments, **named):
        rates.append([group["lr"] for group in optimizer.param_groups])
        return step(optimizer, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording)
    config = make_config({"schedule": schedule.model_dump(), "optim.lr": 1e-2})
    drain(fit(config, data, epochs=2))
    expected = [1e-2 * lr_factor(schedule, progress, 4) for progress in (0, 0.5, 1, 1.5)]
    assert rates == [pytest.approx([rate, rate]) for rate in expected]


def damaged(folder, key, value):
    """Put ``value`` into the first entry of a weight of the last checkpoint."""
    state = load_checkpoint(folder / "last.pt")
    state["model"][key].view(-1)[0] = value
    save_checkpoint(folder / "last.pt", state)


@pytest.mark.parametrize(
    ("key", "value", "precision"),
    [
        ("local.head.bias", math.nan, "fp32"),
        ("local.head.bias", math.inf, "fp32"),
        ("local.head.weight", 1e30, "fp32"),  # the loss is still finite, the gradient is not
        ("local.encoder.0.plane.0.0.weight", math.nan, "bf16"),
        ("global_path.head.weight", math.nan, "fp16"),
        ("global_path.head.weight", math.inf, "fp16"),
        ("alignment.features.0.weight", math.nan, "fp32"),
        ("alignment.regressor.2.weight", math.nan, "fp16"),
    ],
)
def test_weights_that_are_no_numbers_end_it_as_diverged(tmp_path, make_config, data, key, value, precision):
    config = make_config({"train.precision": precision, "train.epochs": 3})
    (before,), _ = drain(fit(config, data, folder=tmp_path, epochs=1))
    damaged(tmp_path, key, value)
    results, outcome = drain(fit(config, data, folder=tmp_path))
    assert results == [before]
    assert outcome is Outcome.DIVERGED
    assert len(load_checkpoint(tmp_path / "last.pt")["history"]) == 1


def test_an_absurd_learning_rate_ends_it_as_diverged_at_once(tmp_path, make_config, data):
    config = make_config()
    absurd = config.model_copy(update={"optim": config.optim.model_copy(update={"lr": 1e30})})
    assert drain(fit(absurd, data, folder=tmp_path)) == ([], Outcome.DIVERGED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shortage", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_running_out_of_memory_ends_it_as_infeasible(tmp_path, make_config, data, monkeypatch, shortage):
    training = fit(make_config(), data, folder=tmp_path)
    first = next(training)

    def fail(*_):
        raise shortage

    monkeypatch.setattr(lcnn.training.fit, "augment", fail)
    assert drain(training) == ([], Outcome.INFEASIBLE)
    monkeypatch.undo()
    assert next(fit(make_config(), data, folder=tmp_path)) == first


def test_running_out_of_memory_while_building_is_infeasible_too(make_config, data):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert drain(fit(make_config(), data, build=fail)) == ([], Outcome.INFEASIBLE)


def test_running_out_of_memory_on_a_cpu_ends_it_as_infeasible(make_config, data, monkeypatch):
    monkeypatch.setattr(lcnn.training.fit, "augment", lambda *_: torch.empty(2**60))
    assert drain(fit(make_config(), data)) == ([], Outcome.INFEASIBLE)


def test_running_out_of_memory_on_resume_is_infeasible_and_blames_no_file(tmp_path, make_config, data, monkeypatch):
    drain(fit(make_config(), data, folder=tmp_path, epochs=1))

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for owner in (torch.optim.AdamW, lcnn.network.model.LCNN):
        with monkeypatch.context() as patched:
            patched.setattr(owner, "load_state_dict", fail)
            assert drain(fit(make_config(), data, folder=tmp_path)) == ([], Outcome.INFEASIBLE)


def test_no_epochs_are_no_epochs(tmp_path, make_config, data):
    drain(fit(make_config(), data, folder=tmp_path, epochs=2))
    assert drain(fit(make_config(), data, folder=tmp_path, epochs=0)) == ([], Outcome.COMPLETED)
    shorter, _ = drain(fit(make_config(), data, folder=tmp_path, epochs=1))
    assert [result.epoch for result in shorter] == [1]


def test_a_broken_machine_is_no_outcome(make_config, data, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error: device lost")

    monkeypatch.setattr(lcnn.training.fit, "augment", fail)
    with pytest.raises(RuntimeError, match="device lost"):
        drain(fit(make_config(), data))


def with_curve(folder, curve):
    """Rewrite the record of a training as if it had had these Dice values."""
    state = load_checkpoint(folder / "last.pt")
    (entry,) = state["history"]
    state["history"] = [{**entry, "epoch": epoch, "val_dice": dice} for epoch, dice in enumerate(curve, start=1)]
    save_checkpoint(folder / "last.pt", state)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory, make_config, data):
    """One epoch of a training with a patience of two epochs."""
    folder = tmp_path_factory.mktemp("impatient")
    config = make_config({"train.epochs": 10, "train.early_stopping": 2, "train.stacks_per_epoch": 2})
    drain(fit(config, data, folder=folder, epochs=1))
    return folder, config


@pytest.mark.parametrize(
    ("curve", "goes_on"),
    [
        ([0.0, 0.0, 0.0, 0.0, 0.0], True),  # never left 0
        ([0.0, 0.0, 0.0, 0.009], True),
        ([0.0, 0.0, 0.0, 0.5], True),  # only now it has
        ([0.5, 0.4], True),
        ([0.5, 0.4, 0.4], False),
        ([0.5, 0.4, 0.6], True),
        ([0.5, 0.4, 0.6, 0.5], True),
        ([0.5, 0.4, 0.6, 0.5, 0.55], False),
        ([0.5, 0.5, 0.5], False),  # as good is not better
        ([None, None, None, None], True),  # nothing to judge by
    ],
)
def test_it_stops_early_once_dice_has_left_zero_and_stands_still(tmp_path, data, impatient, curve, goes_on):
    folder, config = impatient
    shutil.copy(folder / "last.pt", tmp_path)
    with_curve(tmp_path, curve)
    results, outcome = drain(fit(config, data, folder=tmp_path, epochs=len(curve) + 1))
    assert outcome is Outcome.COMPLETED
    assert [result.val_dice for result in results[: len(curve)]] == curve
    assert len(results) == len(curve) + goes_on


def test_best_is_the_epoch_of_best_dice(tmp_path, make_config, data, monkeypatch):
    # Dice of a real training cannot be told to fall, so its values are handed in here.
    curve = iter([0.1, 0.6, 0.3, 0.5])
    monkeypatch.setattr(lcnn.training.fit._Training, "_validate", lambda _: next(curve))
    kept = []
    for _ in fit(make_config(), data, folder=tmp_path):
        kept.append(len(load_checkpoint(tmp_path / "best.pt")["history"]))
        if kept[-1] == 2 and len(kept) == 2:
            assert_same_state(
                load_checkpoint(tmp_path / "best.pt")["model"], load_checkpoint(tmp_path / "last.pt")["model"]
            )
    assert kept == [1, 2, 2, 2]


def test_the_first_of_equal_epochs_is_the_best(tmp_path, make_config, data, monkeypatch):
    curve = iter([0.0, 0.6, 0.6, 0.6])
    monkeypatch.setattr(lcnn.training.fit._Training, "_validate", lambda _: next(curve))
    kept = [len(load_checkpoint(tmp_path / "best.pt")["history"]) for _ in fit(make_config(), data, folder=tmp_path)]
    assert kept == [1, 2, 2, 2]


def test_best_survives_a_resume_into_worse_epochs(tmp_path, make_config, data):
    config = make_config()
    drain(fit(config, data, folder=tmp_path, epochs=1))
    with_curve(tmp_path, [0.9])
    before = (tmp_path / "best.pt").read_bytes()
    drain(fit(config, data, folder=tmp_path, epochs=2))
    assert (tmp_path / "best.pt").read_bytes() == before


def test_without_validation_patients_there_is_no_dice_and_no_best(tmp_path, make_config, data):
    final = dataclasses.replace(data, val=())
    results, outcome = drain(fit(make_config({"train.epochs": 2}), final, folder=tmp_path))
    assert outcome is Outcome.COMPLETED
    assert [result.val_dice for result in results] == [None, None]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["history.csv", "last.pt"]


def test_validation_patients_without_lesion_are_no_ground_to_stop(tmp_path, make_config, data):
    config = make_config({"train.early_stopping": 1})
    results, _ = drain(fit(config, dataclasses.replace(data, val=("c",)), folder=tmp_path))
    assert len(results) == 4


@pytest.mark.parametrize("change", [{"optim.lr": 2e-3}, {"train.seed": 1}, {"train.epochs": 5}])
def test_the_checkpoint_of_another_configuration_is_refused(tmp_path, make_config, data, change):
    drain(fit(make_config(), data, folder=tmp_path, epochs=1))
    with pytest.raises(InputError, match=r"last\.pt: belongs to another configuration; use an empty folder"):
        next(fit(make_config(change), data, folder=tmp_path))


def test_a_damaged_checkpoint_is_refused(tmp_path, make_config, data):
    drain(fit(make_config(), data, folder=tmp_path, epochs=1))
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"last\.pt: truncated"):
        next(fit(make_config(), data, folder=tmp_path))


@pytest.mark.parametrize("damage", [{"config": '{"no_such_field": 1}'}, {"optimizer": None}], ids=["config", "best"])
def test_a_checkpoint_that_cannot_be_resumed_from_is_refused(tmp_path, make_config, data, damage):
    drain(fit(make_config(), data, folder=tmp_path, epochs=1))
    state = {**load_checkpoint(tmp_path / "last.pt"), **damage}
    save_checkpoint(tmp_path / "last.pt", {key: value for key, value in state.items() if value is not None})
    with pytest.raises(InputError, match=r"last\.pt"):
        next(fit(make_config(), data, folder=tmp_path))


def test_a_step_holds_at_most_batch_size_stacks(make_config, data, monkeypatch):
    steps = []
    batch = StackSource.batch

    def recording(source, positions):
        steps.append(len(positions))
        return batch(source, positions)

    monkeypatch.setattr(StackSource, "batch", recording)
    final = dataclasses.replace(data, val=())
    drain(fit(make_config({"train.stacks_per_epoch": 5, "train.batch_size": 4}), final, epochs=1))
    assert max(steps) <= 4


def test_a_training_has_no_field_for_test_patients():
    assert [field.name for field in dataclasses.fields(TrainingData)] == ["store", "train", "val", "normalisation"]


@pytest.mark.parametrize(
    ("patient", "training_changes", "dice_may_change"),
    [("a", True, True), ("b", False, True), ("d", False, False), ("f", False, False)],
)
def test_only_training_patients_train(
    tmp_path, make_config, data, in_one_go, with_other_pixels, patient, training_changes, dice_may_change
):
    _, config, whole = in_one_go
    other, _ = drain(fit(config, with_other_pixels(patient, data), folder=tmp_path, epochs=2))
    assert ([r.loss for r in other] != [r.loss for r in whole[:2]]) == training_changes
    if not dice_may_change:
        assert untimed(other) == untimed(whole[:2])


@torch.no_grad()
def call_about_half_lesion(model, grey):
    """Shift the logits so that their sign changes in the widest gap near their median, where no rounding matters."""
    logits = model.eval()(grey).logits_BHW.flatten().sort().values
    middle = logits[len(logits) // 4 : 3 * len(logits) // 4]
    widest = middle.diff().argmax()
    threshold = (middle[widest] + middle[widest + 1]) / 2
    for head in (model.local.head, model.global_path.head):
        head.bias -= threshold


def test_dice_is_the_mean_over_patients_with_lesion_on_all_slices(make_config, store, normalisation):
    torch.manual_seed(3)
    model = build_model(make_config({"T": 0}), normalisation)
    source = StackSource(store, ["a", "c", "e"], 0)
    stacks, _ = source.batch(np.arange(len(source)))
    call_about_half_lesion(model, stacks.float())
    model.train()
    found = count_patients(model, source, 3, batch_size=4, dtype=torch.float32)
    for counts, name in zip(found, ("a", "c", "e"), strict=True):
        entry = store.patients[name]
        both = predicted = true = 0
        parts = overview(store.images_NSS[entry.start : entry.stop])
        for z in range(entry.start, entry.stop):
            stack = torch.from_numpy(np.concatenate([parts, store.images_NSS[z : z + 1]])).float()
            with torch.no_grad():
                logits = model(stack[None]).logits_BHW[0]
            says, is_so = (logits > 0).numpy(), store.masks_NSS[z] > 127
            both, predicted, true = both + (says & is_so).sum(), predicted + says.sum(), true + is_so.sum()
        assert (counts.both, counts.predicted, counts.true) == (both, predicted, true)
    assert all(
        0.1 * 1024 < counts.predicted / store.patients[n].slice_count < 0.9 * 1024
        for counts, n in zip(found, "ace", strict=True)
    )
    assert not model.training


def test_decay_is_for_matrices_alone(make_config, normalisation):
    model = build_model(make_config({"optim.weight_decay": 0.03}), normalisation)
    groups = make_optimizer(model, make_config({"optim.weight_decay": 0.03}).optim).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.03 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision_on_a_cpu(precision, dtype):
    assert resolve_precision(precision, torch.device("cpu")) == dtype


@pytest.mark.parametrize(
    ("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)], ids=["new gpu", "old gpu"]
)
def test_precision_on_a_gpu(monkeypatch, has_bf16, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert resolve_precision("auto", torch.device("cuda")) == dtype
    assert resolve_precision("fp32", torch.device("cuda")) == torch.float32


# No dead knobs: every field of a configuration, a value to change it to, and what else must be set for it to
# matter. The base trains two epochs of two steps each, so that even what acts on the second cycle of a
# schedule shows.


def leaves(settings, path=""):
    """Dotted paths of all leaf fields; each member of a union under its own name."""
    for name, info in settings.model_fields.items():
        kinds = [kind for kind in (info.annotation, *typing.get_args(info.annotation)) if is_settings(kind)]
        if not kinds:
            yield path + name
        for kind in kinds:
            member = f"{kind.model_fields['name'].default}." if len(kinds) > 1 else ""
            yield from leaves(kind, f"{path}{name}.{member}")


def is_settings(kind):
    return isinstance(kind, type) and issubclass(kind, BaseModel)


COSINE, CYCLE, POWER = ({"schedule": {"name": name}} for name in ("cosine_restarts", "one_cycle", "polynomial"))
TRAINED = {
    "T": ({}, {"T": 2}),
    "model.width": ({}, {"model.width": 8}),
    "model.levels": ({}, {"model.levels": 3}),
    "model.window_size": ({}, {"model.window_size": 8}),
    "model.heads": ({}, {"model.heads": 4}),
    "model.norm": ({}, {"model.norm": "batch"}),
    "model.max_angle_deg": ({}, {"model.max_angle_deg": 10.0}),
    "model.max_shift": ({}, {"model.max_shift": 0.05}),
    "fusion.local": ({}, {"fusion.local": 0.5}),
    "loss.dice": ({}, {"loss.dice": 0.6}),
    "loss.alignment": ({}, {"loss.alignment": 0.2}),
    "loss.class_weights": ({}, {"loss.class_weights": (0.2, 0.8)}),
    "optim.lr": ({}, {"optim.lr": 2e-3}),
    "optim.weight_decay": ({}, {"optim.weight_decay": 0.1}),
    "schedule.cosine_restarts.name": (COSINE, CYCLE),
    "schedule.cosine_restarts.t0": (COSINE, {"schedule.t0": 1}),
    "schedule.cosine_restarts.t_mult": ({"schedule": {"name": "cosine_restarts", "t0": 1}}, {"schedule.t_mult": 1}),
    "schedule.one_cycle.name": (CYCLE, POWER),
    "schedule.one_cycle.warmup": (CYCLE, {"schedule.warmup": 0.6}),
    "schedule.polynomial.name": (POWER, COSINE),
    "schedule.polynomial.power": (POWER, {"schedule.power": 2.0}),
    "augment.flip": ({}, {"augment.flip": 1.0}),
    "augment.rotation_deg": ({}, {"augment.rotation_deg": 30.0}),
    "augment.shift": ({}, {"augment.shift": 0.3}),
    "augment.scale": ({}, {"augment.scale": (0.7, 1.1)}),
    "train.epochs": (POWER, {"train.epochs": 8}),
    "train.batch_size": ({}, {"train.batch_size": 2}),
    "train.stacks_per_epoch": ({}, {"train.stacks_per_epoch": 6}),
    "train.lesion_share": ({"train.stacks_per_epoch": 8}, {"train.lesion_share": 0.25}),
    "train.precision": ({}, {"train.precision": "bf16"}),
    "train.clip_norm": ({}, {"train.clip_norm": 0.01}),
    "train.seed": ({}, {"train.seed": 1}),
}
SHOWN_ELSEWHERE = {
    "model.global_backbone": "test_the_backbone_and_its_weights_reach_the_network",
    "model.weights": "test_the_backbone_and_its_weights_reach_the_network",
    "train.early_stopping": "test_the_patience_is_the_one_that_is_set",
    "train.accumulation": "test_micro_batches_are_smaller_and_the_training_is_the_same",
}


def test_every_field_of_a_configuration_is_proved_to_matter():
    assert sorted([*TRAINED, *SHOWN_ELSEWHERE]) == sorted(leaves(TrainConfig))
    assert set(SHOWN_ELSEWHERE.values()) <= globals().keys()


@pytest.fixture(scope="module")
def fingerprint(make_config, data, tmp_path_factory):
    """Losses and final weights of two epochs of a configuration, remembered for those that many tests share."""
    known = {}
    unvalidated = dataclasses.replace(data, val=())

    def train(changes, repeat=False):
        config = make_config({"optim.lr": 1e-2, **changes})
        key = config.model_dump_json()
        if key not in known or repeat:
            folder = tmp_path_factory.mktemp("knob")
            results, outcome = drain(fit(config, unvalidated, folder=folder, epochs=2))
            assert outcome is Outcome.COMPLETED
            digest = hashlib.sha256()
            for name, value in load_checkpoint(folder / "last.pt")["model"].items():
                digest.update(name.encode() + value.numpy().tobytes())
            known[key] = [result.loss for result in results], digest.hexdigest()
        return known[key]

    return train


@pytest.mark.parametrize("field", TRAINED)
def test_changing_a_field_changes_the_training(fingerprint, field):
    base, change = TRAINED[field]
    before_losses, before_weights = fingerprint(base)
    losses, weights = fingerprint(base | change)
    assert weights != before_weights
    if field != "schedule.cosine_restarts.t_mult":  # which acts on the last of the four steps only
        assert losses != before_losses


def test_each_entry_changes_the_field_that_it_names():
    for field, (_, change) in TRAINED.items():
        section, _, leaf = field.rpartition(".")
        assert list(change) == ["schedule" if leaf == "name" else f"{section.split('.')[0]}.{leaf}".lstrip(".")]


@pytest.mark.parametrize("changes", [{}, COSINE, CYCLE, POWER])
def test_changing_nothing_changes_nothing(fingerprint, changes):
    assert fingerprint(changes) == fingerprint(changes, repeat=True)


def test_the_backbone_and_its_weights_reach_the_network(make_config, normalisation, weights_file):
    def first_kernel(changes):
        torch.manual_seed(0)
        return build_model(make_config(changes), normalisation).global_path.encoder.stem[0].weight

    small = first_kernel({"model.global_backbone": "resnext14_4x2d"})
    large = first_kernel({"model.global_backbone": "resnext50_32x4d"})
    weights = {"model.norm": "batch", "model.weights": str(weights_file)}
    loaded = first_kernel({"model.global_backbone": "resnext50_32x4d", **weights})
    assert small.shape != large.shape
    assert not torch.equal(loaded, large)
    assert torch.equal(loaded, torch.load(weights_file, weights_only=True, mmap=True)["conv1.weight"])


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_patience_is_the_one_that_is_set(tmp_path, make_config, data, patience):
    config = make_config({"train.epochs": 10, "train.early_stopping": patience, "train.stacks_per_epoch": 2})
    drain(fit(config, data, folder=tmp_path, epochs=1))
    with_curve(tmp_path, [0.9])  # which no epoch to come will reach
    results, outcome = drain(fit(config, data, folder=tmp_path))
    assert outcome is Outcome.COMPLETED
    assert len(results) == 1 + patience


@pytest.fixture(scope="module")
def plainly_descended(make_config, data, tmp_path_factory):
    """An epoch in micro-batches: stacks of each forward pass, the result, and the weights.

    By plain gradient descent: AdamW makes a full step even of a gradient that is zero but for rounding.
    """

    def descend(accumulation):
        folder = tmp_path_factory.mktemp("descended")
        changes = {"train.accumulation": accumulation, "train.stacks_per_epoch": 10, "train.batch_size": 5}
        config = make_config({**changes, "optim.lr": 1e-2, "loss.alignment": 1.0})
        passes = []
        forward = LCNN.forward
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LCNN, "forward", lambda model, grey: (passes.append(len(grey)), forward(model, grey))[1])
            patch.setattr(
                lcnn.training.fit, "make_optimizer", lambda net, c: torch.optim.SGD(net.parameters(), lr=c.lr)
            )
            (result,), outcome = drain(fit(config, dataclasses.replace(data, val=()), folder=folder, epochs=1))
        assert outcome is Outcome.COMPLETED
        return passes, result, load_checkpoint(folder / "last.pt")["model"]

    whole = descend(1)
    assert whole[0] == [5, 5]
    return lambda accumulation: (*whole[1:], *descend(accumulation))


@pytest.mark.parametrize(
    ("accumulation", "step"), [(2, [3, 2, 2, 3]), (3, [2, 2, 1, 1, 2, 2]), (4, [2, 1, 1, 1, 1, 1, 1, 2]), (9, [1] * 10)]
)
def test_micro_batches_are_smaller_and_the_training_is_the_same(plainly_descended, accumulation, step):
    whole, weights, passes, result, same_weights = plainly_descended(accumulation)
    assert passes == 2 * step  # each once forward and once going back, in each of the two steps
    for name in ("loss", "dice_loss", "cross_entropy", "alignment_loss", "lr"):
        assert getattr(result, name) == pytest.approx(getattr(whole, name), rel=1e-5)
    for name, value in weights.items():
        assert torch.allclose(same_weights[name], value, rtol=1e-5, atol=1e-6), name


def test_validation_has_no_more_stacks_at_once_than_a_micro_batch(make_config, data, monkeypatch):
    passes = []
    forward = LCNN.forward
    monkeypatch.setattr(LCNN, "forward", lambda model, grey: (passes.append(len(grey)), forward(model, grey))[1])
    drain(fit(make_config({"train.accumulation": 2}), data, epochs=1))
    assert set(passes) == {2}  # patient b has four slices


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_training_in_micro_batches_resumes_as_if_it_had_never_stopped(tmp_path, make_config, data, precision):
    config = make_config({"train.accumulation": 2, "train.precision": precision, "train.epochs": 2})
    whole, _ = drain(fit(config, data, folder=tmp_path / "whole"))
    next(fit(config, data, folder=tmp_path / "cut"))
    again, outcome = drain(fit(config, data, folder=tmp_path / "cut"))
    assert outcome is Outcome.COMPLETED
    assert untimed(again) == untimed(whole)
    assert_same_training(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(("value", "precision"), [(math.nan, "fp32"), (1e30, "fp32"), (math.nan, "fp16")])
def test_micro_batches_that_are_no_numbers_end_it_as_diverged(tmp_path, make_config, data, value, precision):
    config = make_config({"train.accumulation": 2, "train.precision": precision, "train.epochs": 2})
    drain(fit(config, data, folder=tmp_path, epochs=1))
    damaged(tmp_path, "local.head.weight", value)
    results, outcome = drain(fit(config, data, folder=tmp_path))
    assert (len(results), outcome) == (1, Outcome.DIVERGED)
