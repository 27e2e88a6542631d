"""The local path: SEAN, a symmetry-enhanced attention network over 2T + 1 aligned slices.

A 3D encoder that pools only in the plane, symmetry attention at its deepest level, and a 2D decoder for the
centre slice. Each skip connection gathers its depth by a learned convolution, so every slice takes part.

Legend: B stacks, C channels, D = 2T + 1 slices, H rows, W columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcnn.attention import SymmetryAttention


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with groups of at least four channels: independent of the batch's make-up."""
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and channels // g >= 4)
    return nn.GroupNorm(groups, channels)


class ConvBlock3d(nn.Module):
    """In-plane 3x3 and through-plane 3 convolutions, each normalised: a factorised 3x3x3."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.plane = nn.Conv3d(before, after, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.norm1 = group_norm(after)
        self.depth = nn.Conv2d(after, after, (3, 1), padding=(1, 0), bias=False)
        self.norm2 = group_norm(after)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """(B, before, D, H, W) to (B, after, D, H, W)."""
        x = F.silu(self.norm1(self.plane(x_BCDHW)))
        # A 3x1x1 convolution, written in two dimensions: CPUs have no fast kernel for the 3D form.
        mixed = self.depth(x.flatten(3)).view_as(x)
        return F.silu(self.norm2(mixed))


class ConvBlock2d(nn.Module):
    """Two 3x3 convolutions, each normalised."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            group_norm(after),
            nn.SiLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            group_norm(after),
            nn.SiLU(),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H, W)."""
        return self.body(x_BCHW)


class LocalPath(nn.Module):
    """SEAN without its alignment: an aligned, normalised stack in, logits of the centre slice out.

    Args:
        slices: slices of the stack, 2T + 1.
        width: channels of the first level.
        levels: resolution levels; the plane is halved between two of them.
        window: side of the attention windows at the deepest level.
        heads: attention heads.
        prior: probability of lesion that the untrained network predicts.
    """

    def __init__(self, slices: int, *, width: int, levels: int, window: int, heads: int, prior: float) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(levels)]
        self.encoder = nn.ModuleList(
            ConvBlock3d(before, after) for before, after in zip([1, *channels], channels, strict=False)
        )
        self.attention = SymmetryAttention(channels[-1], slices=slices, window=window, heads=heads)
        self.gather = nn.ModuleList(nn.Conv2d(c * slices, c, 1, bias=False) for c in channels)
        self.decoder = nn.ModuleList(
            ConvBlock2d(deep + skip, skip) for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(width, 1, 1)
        init_prior(self.head, prior)

    def encode(self, x_BDHW: Tensor) -> list[Tensor]:
        """Feature maps (B, C, D, H / 2**l, W / 2**l) of all levels, the deepest last and attended."""
        maps: list[Tensor] = []
        x = x_BDHW.unsqueeze(1)
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool3d(x, (1, 2, 2), ceil_mode=True))
            maps.append(x)
        maps[-1] = self.attention(maps[-1])
        return maps

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, 1, H, W) of the centre slice."""
        flat = [gather(x.flatten(1, 2)) for gather, x in zip(self.gather, maps, strict=True)]
        x = flat[-1]
        for block, skip in zip(self.decoder, reversed(flat[:-1]), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        return self.head(x)

    def forward(self, x_BDHW: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of the centre slice, in the space of the input."""
        return self.decode(self.encode(x_BDHW))


def init_prior(head: nn.Conv2d, prior: float) -> None:
    """Bias of a one-channel head such that the untrained network predicts ``prior`` everywhere.

    Keeps the first steps on rare lesions from being spent on learning that most pixels are background
    (Lin et al. 2017, Focal Loss, section 4.1).
    """
    assert head.bias is not None
    nn.init.constant_(head.bias, float(torch.logit(torch.tensor(prior))))
