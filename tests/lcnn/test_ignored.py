"""Ignored pixels are neither learnt nor scored: whatever is true or predicted there changes nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import Truthful

from data_prep.cohort.layout import scan_cohort
from data_prep.cohort.store import compile_store
from data_prep.preprocessing.picture import PictureConfig
from data_prep.volumes.mask import IGNORED_GREY
from lcnn.config import LossConfig
from lcnn.inference.model_file import TrainedModel
from lcnn.network.alignment import Pose
from lcnn.network.model import Prediction, build_model
from lcnn.network.stacks import StackSource
from lcnn.scoring.evaluate import Case, evaluate, score_patient
from lcnn.scoring.overlay import GREY, save_overlay
from lcnn.scoring.slices import keep_slices, read_slices_of, write_slices
from lcnn.training.augment import augment, draw_affine, move
from lcnn.training.fit import count_patients, fit
from lcnn.training.loss import dice_loss, lcnn_loss, weighted_cross_entropy

WEIGHTS = (0.1, 0.9)


def prediction(logits_BHW):
    nothing = torch.zeros(len(logits_BHW))
    return Prediction(logits_BHW, nothing, nothing, Pose(nothing, nothing))


def drawn(seed=0, shape=(2, 8, 8)):
    """Random logits, lesion and ignored pixels; the last two do not overlap."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(shape, generator=generator)).requires_grad_()
    ignored = (torch.rand(shape, generator=generator) < 0.4).float()
    return logits, (torch.rand(shape, generator=generator) < 0.3).float() * (1 - ignored), ignored


@pytest.fixture(scope="module")
def half_ignored(store):
    """More than the right half of every mask is ignored; as in a compiled store, no lesion is left there."""
    masks_NSS, ignored_NSS = np.array(store.masks_NSS), np.zeros_like(store.masks_NSS)
    masks_NSS[..., 12:], ignored_NSS[..., 12:] = 0, 255
    return dataclasses.replace(store, masks_NSS=masks_NSS, ignored_NSS=ignored_NSS)


# The loss


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_the_other_pixels_alone(seed):
    logits, lesion, ignored = drawn(seed)
    loss = lcnn_loss(prediction(logits), lesion, LossConfig(), ignored)
    kept = ignored == 0
    assert loss.dice.item() == pytest.approx(dice_loss(logits[kept], lesion[kept]).item(), rel=1e-6)
    alone = weighted_cross_entropy(logits[kept], lesion[kept], WEIGHTS)
    assert loss.cross_entropy.item() == pytest.approx(alone.item(), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_said_of_ignored_pixels_changes_neither_loss_nor_gradient(seed):
    logits, lesion, ignored = drawn(seed)
    other_logits, other_lesion, _ = drawn(seed + 9)
    found = []
    for says, is_so in ((logits, lesion), (other_logits, other_lesion)):
        mixed = torch.where(ignored == 1, says, logits).detach().requires_grad_()
        loss = lcnn_loss(prediction(mixed), torch.where(ignored == 1, is_so, lesion), LossConfig(), ignored)
        loss.total.backward()
        assert (mixed.grad[ignored == 1] == 0).all()
        assert (mixed.grad[ignored == 0] != 0).all()
        found.append((loss.total.detach(), mixed.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_without_ignored_pixels_the_loss_is_the_same_to_the_bit():
    found = []
    for ignored in (None, torch.zeros(2, 8, 8)):
        logits, lesion, _ = drawn()
        loss = lcnn_loss(prediction(logits), lesion, LossConfig(), ignored)
        loss.total.backward()
        found.append((*(part.detach() for part in loss), logits.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_pixel_that_is_ignored_in_part_counts_by_the_rest():
    # Of four pixels as drawn, one is lesion and two are ignored: what is left is half of the stored pixel, half lesion.
    logits = torch.full((1, 2, 2), 0.7)
    lesion, ignored = torch.tensor([[[1.0, 0], [0, 0]]]), torch.tensor([[[0, 0], [1.0, 1]]])
    fine = lcnn_loss(prediction(logits), lesion, LossConfig(class_weights=(1.0, 1.0)), ignored)
    pixel = (map_.mean().view(1, 1, 1) for map_ in (logits, lesion, ignored))
    says, is_so, unknown = pixel
    coarse = lcnn_loss(prediction(says), is_so, LossConfig(class_weights=(1.0, 1.0)), unknown)
    assert coarse.cross_entropy.item() == pytest.approx(fine.cross_entropy.item())


def test_where_all_is_ignored_there_is_nothing_to_lose():
    logits, lesion, _ = drawn()
    loss = lcnn_loss(prediction(logits), lesion, LossConfig(), torch.ones(2, 8, 8))
    loss.total.backward()
    assert loss.total.item() == 0
    assert (logits.grad == 0).all()


# Training


def test_a_network_learns_nothing_from_what_is_ignored(half_ignored, normalisation, make_config):
    config = make_config()
    source = StackSource(half_ignored, ("a", "e"), config.T)
    positions = np.arange(4)
    matrix = draw_affine(config.augment, 4, torch.Generator().manual_seed(3))
    grey, lesion = (maps.float() for maps in source.batch(positions))
    grey, lesion = augment(grey, lesion / 255, matrix)
    ignored = move(source.ignored(positions).float().unsqueeze(1) / 255, matrix).squeeze(1)
    outside = move(torch.ones(4, 1, 32, 32), matrix).squeeze(1) == 0
    assert (ignored[outside] == 0).all()
    predicted = build_model(config, normalisation)(grey)
    predicted.logits_BHW.retain_grad()
    lcnn_loss(predicted, lesion, config.loss, ignored).total.backward()
    wholly = ignored > 1 - 1e-5
    assert 0.3 < wholly.float().mean() < 0.8
    assert (predicted.logits_BHW.grad[wholly] == 0).all()
    assert (predicted.logits_BHW.grad[ignored == 0] != 0).all()


def test_training_takes_the_ignored_map_and_is_the_same_where_it_is_empty(data, half_ignored, make_config):
    empty = dataclasses.replace(data.store, ignored_NSS=np.zeros_like(half_ignored.ignored_NSS))
    config = make_config({"train.epochs": 1, "train.stacks_per_epoch": 4})
    plain, none, half = (
        dataclasses.asdict(dataclasses.replace(next(fit(config, dataclasses.replace(data, store=store))), seconds=0))
        for store in (data.store, empty, half_ignored)
    )
    assert none == pytest.approx(plain, rel=1e-5)
    assert abs(half["cross_entropy"] - plain["cross_entropy"]) > 1e-3


def test_validation_leaves_it_out(half_ignored, store):
    lesion_there = dataclasses.replace(half_ignored, masks_NSS=half_ignored.masks_NSS | half_ignored.ignored_NSS)
    full, cut, again = (
        count_patients(Truthful(), StackSource(source, ("a",), 1), 1, batch_size=4, dtype=torch.float32)[0]
        for source in (store, half_ignored, lesion_there)
    )
    assert 0 < cut.both < full.both
    assert cut == again


@pytest.mark.parametrize(
    ("lesion", "ignored", "true", "scored"),
    [(0, 0, False, True), (127, 0, False, True), (128, 0, True, True), (0, 255, False, False), (110, 128, False, False),
     (100, 100, True, True), (70, 100, False, True), (60, 127, False, True), (65, 127, True, True)],
)  # fmt: skip
def test_a_stored_pixel_is_judged_by_what_is_not_ignored(half_ignored, lesion, ignored, true, scored):
    masks_NSS, ignored_NSS = np.zeros_like(half_ignored.masks_NSS), np.zeros_like(half_ignored.masks_NSS)
    first = half_ignored.patients["a"].start
    masks_NSS[first, 0, 0], ignored_NSS[first, 0, 0] = lesion, ignored
    store = dataclasses.replace(half_ignored, masks_NSS=masks_NSS, ignored_NSS=ignored_NSS)
    says_all = Truthful(threshold=-1.0)
    (found,) = count_patients(says_all, StackSource(store, ("a",), 1), 1, batch_size=4, dtype=torch.float32)
    assert (found.true, found.predicted) == (true, 5 * 32 * 32 - (not scored))


# Evaluation


def volumes(seed, shape=(4, 20, 20)):
    rng = np.random.default_rng(seed)
    probability, true = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for array, value in ((probability, 0.8), (true, True)):
        for z, row, column in rng.integers(0, (4, 14, 14), (3, 3)):
            array[z, row : row + 5, column : column + 5] = value
    return probability, true


@pytest.mark.parametrize("seed", range(4))
def test_no_figure_depends_on_ignored_voxels(seed):
    probability, true = volumes(seed)
    other_probability, other_true = volumes(seed + 50)
    ignored = np.zeros(true.shape, dtype=bool)
    ignored[:, :, 9:15] = True
    one = score_patient("p", probability, true, (5.0, 1.0, 1.0), ignored)
    two = score_patient(
        "p",
        np.where(ignored, other_probability, probability),
        np.where(ignored, other_true, true),
        (5.0, 1.0, 1.0),
        ignored,
    )
    assert repr(one) == repr(two)
    assert one.reliability == two.reliability
    assert sum(one.reliability.voxels_K) > 0


def test_a_region_within_ignored_voxels_is_no_false_lesion():
    probability, true, ignored = (np.zeros((2, 12, 12), kind) for kind in (np.float32, bool, bool))
    probability[0, 1:4, 1:4], probability[0, 7:9, 7:9] = 0.9, 0.9
    true[0, 1:4, 1:4] = True
    ignored[0, 6:11, 6:11] = True
    without, with_it = (score_patient("p", probability, true, None, what) for what in (None, ignored))
    assert (without.predicted_lesions, with_it.predicted_lesions) == (2, 1)
    assert (without.precision, with_it.precision) == (9 / 13, 1.0)
    assert (with_it.dice, with_it.lesion_f1, with_it.predicted_volume) == (1.0, 1.0, 9.0)
    # Without true lesion either, it is no false alarm.
    assert score_patient("p", np.where(ignored, probability, 0), ignored, None, ignored).predicted_volume == 0


def test_a_cohort_is_scored_by_what_is_known(cohort_root, make_config, tmp_path):
    root = tmp_path / "cohort"
    for file in (*cohort_root.glob("*/a/*.png"), *cohort_root.glob("*/c/*.png")):
        pixels = np.array(Image.open(file))
        if "masks" in file.parts and "a" in file.parts:
            pixels[:, 15:][pixels[:, 15:] > 0] = IGNORED_GREY  # half of the lesion is not sure
        target = root / file.relative_to(cohort_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target)
    cohort = scan_cohort(root, has_ignored=True)
    picture = PictureConfig(image_size=96, crop="none")
    cases = []
    (result,) = evaluate(TrainedModel(Truthful(), make_config(), picture), cohort, root, ["a"], on_case=cases.append)
    (case,) = cases
    assert result.dice > 0.9
    assert result.precision > 0.9
    assert result.predicted_volume < case.predicted_ZHW.sum() * 0.7
    assert case.ignored_ZHW.sum() == (np.stack([
        np.array(Image.open(root / name)) for name in cohort.patients[0].masks]) == IGNORED_GREY).sum()  # fmt: skip
    store = compile_store(cohort, root, tmp_path / "cache", PictureConfig(image_size=32, crop="none"))
    assert store.patients["a"].lesion_pixels == result.true_volume


# Pictures


@pytest.fixture
def case():
    image = np.random.default_rng(0).integers(60, 120, (3, 60, 60)).astype(np.uint8)
    true, predicted, ignored = np.zeros((3, *image.shape), dtype=bool)
    true[1, 10:20, 10:20], predicted[1, 12:22, 30:50], ignored[1, 10:30, 30:50] = True, True, True
    return Case(score_patient("p", predicted, true, None, ignored), image, true, predicted, ignored)


def test_kept_slices_hold_it_beside_the_truth(case, tmp_path):
    write_slices(tmp_path, case)
    found, kept = read_slices_of(tmp_path / "p.png"), keep_slices(case)
    for name in ("true_NSS", "predicted_NSS", "ignored_NSS"):
        assert np.array_equal(getattr(found, name), getattr(kept, name))
        assert getattr(found, name)[1].any()
    assert not (found.true_NSS & found.ignored_NSS).any()


def test_overlays_hatch_it(case, tmp_path):
    save_overlay(tmp_path / "with.png", case, title="p")
    save_overlay(tmp_path / "without.png", dataclasses.replace(case, ignored_ZHW=None), title="p")
    hatched, plain = (
        (np.array(Image.open(tmp_path / f"{name}.png")) == GREY).all(axis=-1) for name in ("with", "without")
    )
    assert hatched.sum() > plain.sum() + 1000
