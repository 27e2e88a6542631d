"""The training loss: dice * Dice + (1 - dice) * cross-entropy + alignment * symmetry.

Legend: B stacks, H rows, W columns.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lcnn.config import LossConfig
from lcnn.model import Prediction

SMOOTH = 1.0
"""Added to both sides of the Dice fraction, in pixels: keeps a batch without lesion defined and learnable."""

LEAST_ASYMMETRY = 1e-3
"""Mean asymmetry without alignment, in grey values of 0..1, below which the symmetry loss is no longer a share."""


class Loss(NamedTuple):
    """The loss and what it is made of, unweighted."""

    total: Tensor
    dice: Tensor
    cross_entropy: Tensor
    alignment: Tensor


def dice_loss(logits_BHW: Tensor, lesion_BHW: Tensor) -> Tensor:
    """1 - soft Dice over the whole batch at once (Milletari et al. 2016, with the sums of Sudre et al. 2017).

    Over the batch, not a sample: a sample without lesion would add a constant that no logits can remove.
    Sums run in float32, for in half precision they overflow or lose the lesion.
    """
    probability, lesion = torch.sigmoid(logits_BHW.float()), lesion_BHW.float()
    overlap = (probability * lesion).sum()
    return 1 - (2 * overlap + SMOOTH) / (probability.sum() + lesion.sum() + SMOOTH)


def weighted_cross_entropy(logits_BHW: Tensor, lesion_BHW: Tensor, weights: tuple[float, float]) -> Tensor:
    """Binary cross-entropy with class weights, as a weighted mean: equal to torch's two-class form.

    Args:
        logits_BHW: log-odds of lesion.
        lesion_BHW: share of each pixel that is lesion, 0..1.
        weights: of background and of lesion.
    """
    background, foreground = weights
    lesion = lesion_BHW.float()
    weight = background + (foreground - background) * lesion
    values = F.binary_cross_entropy_with_logits(logits_BHW.float(), lesion, weight=weight, reduction="sum")
    return values / weight.sum()


def symmetry_loss(asymmetry_B: Tensor, untouched_B: Tensor) -> Tensor:
    """Asymmetry that the alignment leaves, as a share of what there was without it: below 1 it helps.

    A share, so that its weight means the same for every window and contrast of the pictures; of sums over the
    batch, so that a stack that was symmetric already, or shows no head, does not outweigh the others.
    """
    return asymmetry_B.mean() / untouched_B.mean().clamp_min(LEAST_ASYMMETRY)


def lcnn_loss(prediction: Prediction, lesion_BHW: Tensor, config: LossConfig) -> Loss:
    """The loss of a forward pass against the lesion shares (0..1) of the centre slices."""
    dice = dice_loss(prediction.logits_BHW, lesion_BHW)
    cross_entropy = weighted_cross_entropy(prediction.logits_BHW, lesion_BHW, config.class_weights)
    alignment = symmetry_loss(prediction.asymmetry_B, prediction.untouched_B)
    total = config.dice * dice + (1 - config.dice) * cross_entropy + config.alignment * alignment
    return Loss(total, dice, cross_entropy, alignment)
