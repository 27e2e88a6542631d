"""The loss: values by hand, torch's own cross-entropy, half precision, and batches without lesion."""

import math

import pytest
import torch
from torch.nn import functional as F

from lcnn.config import LossConfig
from lcnn.network.alignment import Pose
from lcnn.network.model import Prediction
from lcnn.training.loss import dice_loss, lcnn_loss, symmetry_loss, weighted_cross_entropy

SURE = 50.0
"""A logit whose probability is 1 in float32."""


def batch(seed=0, shape=(3, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator)
    return logits, (torch.rand(shape, generator=generator) < 0.2).float()


@pytest.mark.parametrize(
    ("logits", "lesion", "loss"),
    [
        ([SURE, -SURE, -SURE, -SURE], [1, 0, 0, 0], 0.0),
        ([-SURE, SURE, SURE, SURE], [1, 0, 0, 0], 1 - 1 / 5),
        ([SURE, SURE, -SURE, -SURE], [1, 0, 0, 0], 1 - 3 / 4),
        ([0.0, 0.0, 0.0, 0.0], [1, 0, 0, 0], 1 - 2 / 4),
        ([0.0, -SURE, -SURE, -SURE], [0.5, 0, 0, 0], 1 - 1.5 / 2),
        ([-SURE, -SURE, -SURE, -SURE], [0, 0, 0, 0], 0.0),
        ([SURE, SURE, SURE, -SURE], [0, 0, 0, 0], 1 - 1 / 4),
    ],
    ids=["perfect", "inverted", "one too many", "undecided", "half a pixel", "rightly empty", "false alarm"],
)
def test_dice_by_hand(logits, lesion, loss):
    found = dice_loss(torch.tensor(logits).view(1, 2, 2), torch.tensor(lesion).view(1, 2, 2))
    assert found.item() == pytest.approx(loss, abs=1e-6)


def test_dice_is_summed_over_the_batch():
    # Alone, the second sample's false alarm would lose 1 - 1/3 and the perfect first one nothing.
    logits = torch.tensor([[SURE, SURE, -SURE, -SURE], [SURE, SURE, -SURE, -SURE]]).view(2, 2, 2)
    lesion = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]]).view(2, 2, 2)
    assert dice_loss(logits, lesion).item() == pytest.approx(1 - 5 / 7)


@pytest.mark.parametrize("weights", [(0.1, 0.9), (1.0, 1.0), (0.5, 2.0)])
def test_cross_entropy_equals_torch_with_two_classes(weights):
    logits, lesion = batch()
    two = torch.stack([torch.zeros_like(logits), logits], dim=1)
    expected = F.cross_entropy(two, lesion.long(), weight=torch.tensor(weights))
    assert weighted_cross_entropy(logits, lesion, weights).item() == pytest.approx(expected.item(), rel=1e-5)


def test_cross_entropy_by_hand():
    logits, lesion = torch.tensor([[[0.0, math.log(3)]]]), torch.tensor([[[1.0, 0.0]]])
    expected = (0.9 * math.log(2) + 0.1 * math.log(4)) / (0.9 + 0.1)
    assert weighted_cross_entropy(logits, lesion, (0.1, 0.9)).item() == pytest.approx(expected)


def test_a_pixel_that_is_half_lesion_counts_half_for_each_class():
    found = weighted_cross_entropy(torch.tensor([[[math.log(3)]]]), torch.tensor([[[0.5]]]), (0.1, 0.9))
    assert found.item() == pytest.approx(0.5 * math.log(4) + 0.5 * math.log(4 / 3))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_logits_lose_nothing_in_the_sums(kind):
    # 2 * 512 * 512 * 0.5 overflows float16, and bfloat16 stops counting at 256.
    logits = torch.zeros(2, 512, 512, dtype=kind)
    lesion = torch.zeros(2, 512, 512)
    lesion[0, :10, :10] = 1
    pixels = 2 * 512 * 512
    assert dice_loss(logits, lesion).item() == pytest.approx(1 - 101 / (0.5 * pixels + 101), rel=1e-6)
    assert weighted_cross_entropy(logits, lesion, (0.1, 0.9)).item() == pytest.approx(math.log(2), rel=1e-4)
    random, mask = batch()
    rounded = random.to(kind)
    assert torch.equal(dice_loss(rounded, mask), dice_loss(rounded.float(), mask))
    weights = (0.1, 0.9)
    assert torch.equal(
        weighted_cross_entropy(rounded, mask, weights), weighted_cross_entropy(rounded.float(), mask, weights)
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("logit", [-200.0, -4.0, 0.0, 4.0, 200.0])
def test_a_batch_without_lesion_is_finite_and_pushes_probabilities_down(kind, logit):
    logits = torch.full((2, 8, 8), logit, dtype=kind, requires_grad=True)
    empty = torch.zeros(2, 8, 8)
    loss = dice_loss(logits, empty) + weighted_cross_entropy(logits, empty, (0.1, 0.9))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad >= 0).all()  # downhill is towards smaller logits
    if logit > -200:
        assert (logits.grad > 0).all()


@pytest.mark.parametrize("part", [dice_loss, lambda *a: weighted_cross_entropy(*a, (0.1, 0.9))], ids=["dice", "ce"])
def test_downhill_raises_lesion_and_lowers_background(part):
    logits, lesion = batch()
    logits.requires_grad_()
    part(logits, lesion).backward()
    assert (logits.grad[lesion == 1] < 0).all()
    assert (logits.grad[lesion == 0] > 0).all()


@pytest.mark.parametrize(
    ("asymmetry", "untouched", "share"),
    [
        ([0.02], [0.08], 0.25),
        ([0.02, 0.06], [0.02, 0.14], 0.5),
        ([0.02, 0.0], [0.08, 0.0], 0.25),  # a stack without head
        ([0.04, 1e-6], [0.08, 1e-9], 0.5),  # a head that is symmetric already
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([5e-4, 5e-4], [1e-9, 1e-9], 0.5),
    ],
)
def test_symmetry_by_hand(asymmetry, untouched, share):
    found = symmetry_loss(torch.tensor(asymmetry), torch.tensor(untouched))
    assert found.item() == pytest.approx(share, rel=1e-3)


def prediction(seed=0):
    logits, lesion = batch(seed)
    nothing = torch.zeros(3)
    asymmetry, untouched = torch.tensor([0.01, 0.07, 0.03]), torch.tensor([0.05, 0.05, 0.1])
    return Prediction(logits, asymmetry, untouched, Pose(nothing, nothing)), lesion


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(dice=0.2, alignment=2.0, class_weights=(0.3, 0.7))])
def test_the_total_is_the_weighted_sum_of_its_parts(config):
    forward, lesion = prediction()
    loss = lcnn_loss(forward, lesion, config)
    assert loss.dice == dice_loss(forward.logits_BHW, lesion)
    assert loss.cross_entropy == weighted_cross_entropy(forward.logits_BHW, lesion, config.class_weights)
    assert loss.alignment.item() == pytest.approx(0.11 / 0.2)
    expected = config.dice * loss.dice + (1 - config.dice) * loss.cross_entropy + config.alignment * 0.11 / 0.2
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("changed", [{"dice": 0.6}, {"alignment": 0.2}, {"class_weights": (0.2, 0.8)}])
def test_each_weight_changes_the_total(changed):
    forward, lesion = prediction()
    before, after = (lcnn_loss(forward, lesion, LossConfig(**c)).total.item() for c in ({}, changed))
    assert abs(after - before) > 1e-3


@pytest.mark.parametrize(("dice", "without"), [(1.0, "cross_entropy"), (0.0, "dice")])
def test_the_ends_of_the_axis_leave_one_part_out(dice, without):
    forward, lesion = prediction()
    loss = lcnn_loss(forward, lesion, LossConfig(dice=dice, alignment=0.0))
    kept = {"dice": loss.dice, "cross_entropy": loss.cross_entropy}
    kept.pop(without)
    assert loss.total.item() == pytest.approx(next(iter(kept.values())).item())
