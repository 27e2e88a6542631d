"""What each part of LCNN is worth: LCNN against itself with one thing changed.

    python -m experiments.ablation --cohort phantom                        synthetic, 96 pixels
    python -m experiments.ablation --cohort FOLDER --profile cpu_real      your own slices, 160 pixels
    python -m experiments.ablation --cohort phantom --only batch_norm averaged

All variants get the same seconds, so that what costs time must earn it; see experiments/study.py for the rules.
"lcnn - X" above zero: LCNN as it is beats variant X.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data_prep.cohort.normalisation import Normalisation
from experiments.study import Contender, parser, run_study
from lcnn.config import TrainConfig
from lcnn.network.local_path import FOLD, columns, planes
from lcnn.network.model import Prediction, build_model

EMA_DECAY = 0.99


class FullConvolution3d(nn.Module):
    """A full 3x3x3 convolution in place of a factorised block."""

    def __init__(self, block: Any, slices: int) -> None:
        super().__init__()
        first, last = block.plane[0], block.depth
        self.slices = slices
        self.conv = nn.Conv3d(first[0].in_channels, last[0].out_channels, 3, padding=1, bias=False)
        self.finish = nn.Sequential(last[1], last[2])

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, H, W)."""
        x_BCDHW = x_NCHW.unflatten(0, (-1, self.slices)).transpose(1, 2)
        y_NCHW = self.conv(x_BCDHW).transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return planes(self.finish(columns(y_NCHW, self.slices)), y_NCHW.shape)


class MirrorDifference(nn.Module):
    """A first convolution that is also shown the difference between the aligned slice and its mirror image."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * conv.in_channels, conv.out_channels, 3, padding=1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Folded pixels in; their mirror image has the columns of every fold swapped."""
        folds = range(0, x_NCHW.shape[1], FOLD)
        order = [fold + column for fold in folds for column in reversed(range(FOLD))]
        return self.conv(torch.cat([x_NCHW, x_NCHW - x_NCHW.flip(-1)[:, order]], dim=1))


class Averaged(nn.Module):
    """A network that is tested with the exponential moving average of its weights (Polyak averaging)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True)
        self.average.requires_grad_(False)

    def forward(self, grey_BCHW: Tensor) -> Prediction:
        """In training the network itself, whose weights join the average; else the average."""
        if self.training:
            self.average.update_parameters(self.net)
        prediction: Prediction = (self.net if self.training else self.average)(grey_BCHW)
        return prediction


class Flipped(nn.Module):
    """A network that is asked twice, once about the mirror image, and answers with the mean of the logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, grey_BCHW: Tensor) -> Prediction:
        """As the network itself."""
        prediction: Prediction = self.net(grey_BCHW)
        mirrored: Prediction = self.net(grey_BCHW.flip(-1))
        return prediction._replace(logits_BHW=(prediction.logits_BHW + mirrored.logits_BHW.flip(-1)) / 2)


def changed(change: Callable[[nn.Module], nn.Module | None]) -> Callable[[TrainConfig, Normalisation], nn.Module]:
    """A builder of LCNN to which a change is made; the change may answer with another module."""

    def build(config: TrainConfig, normalisation: Normalisation) -> nn.Module:
        model = build_model(config, normalisation)
        return change(model) or model

    return build


def _without_attention(model: Any) -> None:
    model.local.attention = nn.Identity()


def _with_full_convolutions(model: Any) -> None:
    model.local.encoder = nn.ModuleList(FullConvolution3d(block, model.slices) for block in model.local.encoder)


def _with_mirror_difference(model: Any) -> None:
    first = model.local.encoder[0].plane[0]
    first[0] = MirrorDifference(first[0])


NO_ALIGNMENT = {"loss.alignment": 0.0, "model.max_angle_deg": 1e-3, "model.max_shift": 1e-6}
VARIANTS = (
    Contender("batch_norm", build_model, {"model.norm": "batch"}),
    Contender("no_alignment", build_model, NO_ALIGNMENT),
    Contender("no_attention", changed(_without_attention)),
    Contender("local_path_alone", build_model, {"fusion.local": 1.0}),
    Contender("full_3d_convolutions", changed(_with_full_convolutions)),
    Contender("mirror_difference", changed(_with_mirror_difference)),
    Contender("averaged", changed(Averaged)),
    Contender("flipped", build_model, tested=Flipped),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; the exit code."""
    options = parser(__doc__)
    names = [variant.name for variant in VARIANTS]
    options.add_argument("--only", nargs="+", choices=names, default=names, metavar="VARIANT", help=", ".join(names))
    parsed = options.parse_args(arguments)
    chosen = [variant for variant in VARIANTS if variant.name in parsed.only]
    return run_study("ablation", [Contender("lcnn", build_model), *chosen], parsed)


if __name__ == "__main__":
    sys.exit(main())
