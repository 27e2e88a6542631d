"""The training loss: dice * Dice + (1 - dice) * cross-entropy + alignment * symmetry.

A pixel of which a share is ignored counts by the rest of it: the rest is its weight in every sum, and the truth is the
share of the rest that is lesion. So the loss weights pixels as they were drawn, and the logit of a pixel that is wholly
ignored has no gradient.

Legend: B stacks, H rows, W columns.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lcnn.config import LossConfig
from lcnn.network.model import Prediction

SMOOTH = 1.0
"""Added to both sides of the Dice fraction, in pixels: keeps a batch without lesion defined and learnable."""

LEAST_COUNTED = 1e-4
"""Share of a pixel below which it does not count: moving a map of shares rounds them by less."""

LEAST_ASYMMETRY = 1e-3
"""Mean asymmetry without alignment, in grey values of 0..1, below which the symmetry loss is no longer a share."""


class Loss(NamedTuple):
    """The loss and what it is made of, unweighted."""

    total: Tensor
    dice: Tensor
    cross_entropy: Tensor
    alignment: Tensor


def dice_loss(logits_BHW: Tensor, lesion_BHW: Tensor, counted_BHW: Tensor | None = None) -> Tensor:
    """1 - soft Dice over the whole batch at once (Milletari et al. 2016, with the sums of Sudre et al. 2017).

    Over the batch, not a sample: a sample without lesion would add a constant that no logits can remove.
    Sums run in float32, for in half precision they overflow or lose the lesion.

    Args:
        logits_BHW: log-odds of lesion.
        lesion_BHW: share of what counts of each pixel that is lesion, 0..1.
        counted_BHW: share of each pixel that counts, 0..1; None where all do.
    """
    probability, lesion = _counted(torch.sigmoid(logits_BHW.float()), counted_BHW), lesion_BHW.float()
    overlap = (probability * lesion).sum()
    return 1 - (2 * overlap + SMOOTH) / (probability.sum() + _counted(lesion, counted_BHW).sum() + SMOOTH)


def _counted(values_BHW: Tensor, counted_BHW: Tensor | None) -> Tensor:
    """Values by what counts of each pixel; where all does, untouched, for even a copy is summed in another order."""
    return values_BHW if counted_BHW is None else values_BHW * counted_BHW


def weighted_cross_entropy(
    logits_BHW: Tensor, lesion_BHW: Tensor, weights: tuple[float, float], counted_BHW: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy with class weights, as a weighted mean: equal to torch's two-class form.

    Where nothing counts, it is 0.

    Args:
        logits_BHW: log-odds of lesion.
        lesion_BHW: share of what counts of each pixel that is lesion, 0..1.
        weights: of background and of lesion.
        counted_BHW: share of each pixel that counts, 0..1; None where all do.
    """
    background, foreground = weights
    lesion = lesion_BHW.float()
    weight = _counted(background + (foreground - background) * lesion, counted_BHW)
    values = F.binary_cross_entropy_with_logits(logits_BHW.float(), lesion, weight=weight, reduction="sum")
    return values / weight.sum().clamp_min(LEAST_COUNTED * min(weights))


def symmetry_loss(asymmetry_B: Tensor, untouched_B: Tensor) -> Tensor:
    """Asymmetry that the alignment leaves, as a share of what there was without it: below 1 it helps.

    A share, so that its weight means the same for every window and contrast of the pictures; of sums over the
    batch, so that a stack that was symmetric already, or shows no head, does not outweigh the others.
    """
    return asymmetry_B.mean() / untouched_B.mean().clamp_min(LEAST_ASYMMETRY)


def lcnn_loss(
    prediction: Prediction, lesion_BHW: Tensor, config: LossConfig, ignored_BHW: Tensor | None = None
) -> Loss:
    """The loss of a forward pass.

    Args:
        prediction: what the network says.
        lesion_BHW: share of each pixel of the centre slices that is lesion, 0..1.
        config: weights of the parts.
        ignored_BHW: share that is neither learnt nor scored, 0..1; None where none is.
    """
    lesion, counted = (lesion_BHW, None) if ignored_BHW is None else _without(lesion_BHW, ignored_BHW)
    dice = dice_loss(prediction.logits_BHW, lesion, counted)
    cross_entropy = weighted_cross_entropy(prediction.logits_BHW, lesion, config.class_weights, counted)
    alignment = symmetry_loss(prediction.asymmetry_B, prediction.untouched_B)
    total = config.dice * dice + (1 - config.dice) * cross_entropy + config.alignment * alignment
    return Loss(total, dice, cross_entropy, alignment)


def _without(lesion_BHW: Tensor, ignored_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of pixels that are ignored in part: the share of the rest that is lesion, and the rest's share."""
    rest = 1 - ignored_BHW
    counted = rest.where(rest >= LEAST_COUNTED, torch.zeros_like(rest))
    return (lesion_BHW / rest.clamp_min(LEAST_COUNTED)).clamp(max=1), counted
