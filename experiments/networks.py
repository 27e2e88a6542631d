"""The networks that LCNN is compared with: MONAI's, on the same stacks, with the slices as channels (2.5D).

Each stands behind LCNN's own interface, so that `lcnn.training.fit.fit` and `lcnn.scoring.evaluate.evaluate` treat all
alike: the same sampler, augmentation, loss, optimizer, schedule and metrics.

Legend: B stacks, D = 2T + 1 slices, K windows, C = OVERVIEW + D * K channels, H rows, W columns.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import cache

import torch
from monai.networks.nets import AttentionUnet, SwinUNETR, UNet
from torch import Tensor, nn

from data_prep.cohort.normalisation import Normalisation
from lcnn.config import TrainConfig
from lcnn.network.alignment import Pose
from lcnn.network.local_path import init_prior
from lcnn.network.model import PRIOR, Prediction, build_model, normalised, statistic
from lcnn.network.stacks import OVERVIEW
from lcnn.training.fit import Build

LEVELS = 5
"""Resolution levels of the two U-Nets, the number of MONAI's own examples."""


class Baseline(nn.Module):
    """A 2D network on a stack whose slices are its channels; no alignment, hence no symmetry loss."""

    def __init__(self, net: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.net = net
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", statistic(normalisation.mean))
        self.register_buffer("std", statistic(normalisation.std))
        # LCNN starts from the prior of a rare lesion; what helps it at the start must help the others.
        last = [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1]
        if last.out_channels == 1 and last.bias is not None:
            init_prior(last, PRIOR)

    def forward(self, grey_BCHW: Tensor) -> Prediction:
        """Segment the centre slice of each stack of grey values 0..255; the overview in front of it is for LCNN."""
        logits = self.net(normalised(grey_BCHW[:, OVERVIEW:], self.mean, self.std)).float()
        nothing_B = logits.new_zeros(len(logits))
        return Prediction(logits.squeeze(1), nothing_B, nothing_B, Pose(nothing_B, nothing_B))


def unet(slices: int, width: int) -> nn.Module:
    """MONAI's residual U-Net (Kerfoot et al. 2019) with two convolutions a unit."""
    channels = [width * 2**level for level in range(LEVELS)]
    strides = [2] * (LEVELS - 1)
    return UNet(spatial_dims=2, in_channels=slices, out_channels=1, channels=channels, strides=strides, num_res_units=2)


def attention_unet(slices: int, width: int) -> nn.Module:
    """MONAI's Attention U-Net (Oktay et al. 2018)."""
    channels = [width * 2**level for level in range(LEVELS)]
    return AttentionUnet(
        spatial_dims=2, in_channels=slices, out_channels=1, channels=channels, strides=[2] * (LEVELS - 1)
    )


def swin_unetr(slices: int, width: int) -> nn.Module:
    """MONAI's SwinUNETR (Hatamizadeh et al. 2022) in two dimensions; ``width`` is its feature size."""
    return SwinUNETR(in_channels=slices, out_channels=1, feature_size=width, spatial_dims=2)


WIDEST = 128

BASELINES: Mapping[str, tuple[Callable[[int, int], nn.Module], int]] = {
    "unet": (unet, 1),
    "attention_unet": (attention_unet, 2),
    "swin_unetr": (swin_unetr, 12),
}
"""Maker of each network, and the number of which its width must be a multiple."""


def parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters())


@cache
def baseline_of_size(name: str, slices: int, size: int) -> tuple[int, int]:
    """Width of the named network whose number of parameters is nearest to ``size``, and that number."""
    make, step = BASELINES[name]

    def count(multiple: int) -> int:
        return parameters(make(slices, multiple * step))

    above = bisect_left(range(1, WIDEST // step), size, key=count) + 1
    best = min((above - 1, above), key=lambda multiple: abs(count(multiple) - size)) if above > 1 else above
    return best * step, count(best)


def network(name: str) -> Build:
    """Builder of LCNN, or of the named network with as many parameters as the LCNN of the same configuration."""
    if name == "lcnn":
        return build_model
    make, _ = BASELINES[name]

    def build(config: TrainConfig, normalisation: Normalisation) -> nn.Module:
        # Windows are channels too: a slice in three of them counts as three.
        slices = (2 * config.T + 1) * normalisation.windows
        state = torch.get_rng_state()
        size = parameters(build_model(config, normalisation))
        width, _ = baseline_of_size(name, slices, size)
        torch.set_rng_state(state)
        return Baseline(make(slices, width), normalisation)

    return build
