"""The global path: a ResNeXt over the whole centre slice, with a light pyramid back to full resolution.

Legend: B slices, C channels, K windows, H rows, W columns.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.common.errors import InputError, first_line
from lcnn.checkpoint import UNREADABLE
from lcnn.network.local_path import init_prior
from lcnn.network.norms import Norm
from lcnn.network.torchvision_models import torchvision_models

PYRAMID_CHANNELS = {"resnext50_32x4d": 128, "resnext14_4x2d": 16}


def grey_adapter(windows: int = 1) -> nn.Conv2d:
    """1x1 convolution from grey to the three channels that a photographic encoder expects.

    At first it copies: one window to all three, three windows to a channel each.
    """
    adapter = nn.Conv2d(windows, 3, 1)
    colour, window = torch.arange(3)[:, None], torch.arange(windows)
    with torch.no_grad():
        adapter.weight.copy_((colour % windows == window)[..., None, None])
    assert adapter.bias is not None
    nn.init.zeros_(adapter.bias)
    return adapter


class ResNeXt14(nn.Module):
    """A ResNeXt of one bottleneck a stage (4 groups, of 2 channels in the first), for computers without a GPU.

    Xie et al. 2017, Aggregated Residual Transformations.
    """

    widths = (32, 64, 96, 128)

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False),
            norm(16),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        bottleneck = torchvision_models().resnet.Bottleneck
        stages: list[nn.Module] = []
        before = 16
        for stage, after in enumerate(self.widths):
            stride = 1 if stage == 0 else 2
            shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), norm(after))
            stages.append(bottleneck(before, after // 4, stride, shortcut, groups=4, base_width=16, norm_layer=norm))
            before = after
        self.stages = nn.ModuleList(stages)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Feature maps at 1/4, 1/8, 1/16 and 1/32 of the resolution."""
        return _run_stages(self.stem(x_BCHW), self.stages)


class ResNeXt50(nn.Module):
    """torchvision's ResNeXt50 32x4d without its classifier."""

    widths = (256, 512, 1024, 2048)

    def __init__(self, weights: str, norm: Norm) -> None:
        super().__init__()
        net = torchvision_models().resnext50_32x4d(weights=None, norm_layer=norm)
        if weights != "none":
            net.load_state_dict(read_weights(weights))
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Feature maps at 1/4, 1/8, 1/16 and 1/32 of the resolution."""
        return _run_stages(self.stem(x_BCHW), self.stages)


def _run_stages(x: Tensor, stages: nn.ModuleList) -> list[Tensor]:
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


def read_weights(weights: str) -> Mapping[str, Tensor]:
    """Weights of torchvision's ResNeXt50: ``imagenet`` from its hub, else from a file.

    Raises:
        InputError: the hub cannot be reached, or the file is missing or holds something else.
    """
    try:
        if weights == "imagenet":
            return torchvision_models().ResNeXt50_32X4D_Weights.IMAGENET1K_V2.get_state_dict(progress=False)
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        how = "imagenet cannot be fetched" if weights == "imagenet" else f"{weights} cannot be read"
        raise InputError(
            f"model.weights: {how} ({first_line(error)}); give the path of a resnext50_32x4d file, imagenet, or none"
        ) from error
    expected = torchvision_models().resnext50_32x4d(weights=None).state_dict()
    if not isinstance(state, Mapping) or _shapes(state) != _shapes(expected):
        raise InputError(f"model.weights: {weights} does not hold torchvision's resnext50_32x4d; give another file")
    return state


def _shapes(state: Mapping[str, object]) -> dict[str, tuple[int, ...] | None]:
    return {name: tuple(value.shape) if isinstance(value, Tensor) else None for name, value in state.items()}


class GlobalPath(nn.Module):
    """Encoder, grey-to-RGB adapter and feature pyramid (Lin et al. 2017, FPN): one slice in, logits out."""

    def __init__(self, *, backbone: str, weights: str, norm: Norm, prior: float, windows: int = 1) -> None:
        super().__init__()
        makers: dict[str, Callable[[], ResNeXt14 | ResNeXt50]] = {
            "resnext14_4x2d": lambda: ResNeXt14(norm),
            "resnext50_32x4d": lambda: ResNeXt50(weights, norm),
        }
        channels = PYRAMID_CHANNELS[backbone]
        self.adapter = grey_adapter(windows)
        self.encoder = makers[backbone]()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in self.encoder.widths)
        self.smooth = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels), nn.ReLU(inplace=True)
        )
        self.head = nn.Conv2d(channels, 1, 1)
        init_prior(self.head, prior)

    def forward(self, x_BKHW: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of normalised slices (B, K, H, W)."""
        maps = self.encoder(self.adapter(x_BKHW))
        x = self.lateral[-1](maps[-1])
        for lateral, skip in zip(list(self.lateral)[-2::-1], maps[-2::-1], strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False) + lateral(skip)
        logits = self.head(self.smooth(x))
        return F.interpolate(logits, size=x_BKHW.shape[-2:], mode="bilinear", align_corners=False)
