"""The local path: SEAN, a symmetry-enhanced attention network over 2T + 1 aligned slices.

A 3D encoder that pools only in the plane, symmetry attention at its deepest level, and a 2D decoder for the
centre slice. Each skip connection gathers its depth by a learned convolution, so every slice takes part. Pixels
are folded into channels at the start and unfolded at the end (Shi et al. 2016, sub-pixel convolution): no detail is
lost, and the many convolutions run at half the resolution, where they cost a quarter. Two small ones at full
resolution draw the outline, back in the picture's own space and beside its own pixels, which no warping has blurred.

Everything lies in memory with the channels last, and the slices of a stack one after the other: there the planes of
all slices are one batch of pictures, and the depth of all pixels is one picture of D rows, without a copy.

Legend: B stacks, C channels, D = 2T + 1 slices, K windows, N = B * D planes, H rows, W columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lcnn.network.attention import SymmetryAttention
from lcnn.network.norms import Norm

FOLD = 2
"""Side of the square of pixels that is folded into channels."""
DRAFT = 4
"""Channels of the draft that the decoder hands over to the outline."""


def conv_norm(before: int, after: int, kernel: tuple[int, int], norm: Norm) -> nn.Sequential:
    """Convolution that keeps the size, normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=False),
        norm(after),
        nn.ReLU(inplace=True),
    )


class ConvBlock3d(nn.Module):
    """In-plane 3x3 convolutions and one through-plane of 3: factorised 3D, as in P3D (Qiu et al. 2017)."""

    def __init__(self, before: int, after: int, slices: int, norm: Norm, *, in_plane: int) -> None:
        super().__init__()
        self.slices = slices
        inputs = [before, *[after] * (in_plane - 1)]
        self.plane = nn.Sequential(*(conv_norm(channels, after, (3, 3), norm) for channels in inputs))
        self.depth = conv_norm(after, after, (3, 1), norm)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, H, W)."""
        x = self.plane(x_NCHW)
        return planes(self.depth(columns(x, self.slices)), x.shape)


def columns(x_NCHW: Tensor, slices: int) -> Tensor:
    """The planes of each stack as one picture (B, C, D, H * W), whose columns are the pixels' depths."""
    return x_NCHW.permute(0, 2, 3, 1).flatten(1, 2).unflatten(0, (-1, slices)).permute(0, 3, 1, 2)


def planes(x_BCDP: Tensor, shape: torch.Size) -> Tensor:
    """The reverse of ``columns``: (N, C, H, W) of the given shape."""
    return x_BCDP.permute(0, 2, 3, 1).flatten(0, 1).unflatten(1, shape[2:]).permute(0, 3, 1, 2)


class UpBlock(nn.Module):
    """A coarse map, narrowed and doubled in size, is added to the skip connection and refined by two 3x3."""

    def __init__(self, deep: int, skip: int, norm: Norm) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(deep, skip, 1, bias=False)
        self.body = nn.Sequential(conv_norm(skip, skip, (3, 3), norm), conv_norm(skip, skip, (3, 3), norm))

    def forward(self, deep_BCHW: Tensor, skip_BCHW: Tensor) -> Tensor:
        """(B, skip, H, W) at the skip connection's size."""
        up = F.interpolate(self.narrow(deep_BCHW), size=skip_BCHW.shape[-2:], mode="bilinear", align_corners=False)
        return self.body(up + skip_BCHW)


class LocalPath(nn.Module):
    """SEAN without its alignment: an aligned, normalised stack in, logits of the centre slice out.

    In two steps, between which the draft can be warped: calling the module gives the draft, ``draw`` the logits.

    Args:
        slices: slices of the stack, 2T + 1.
        width: channels of the first level.
        levels: resolution levels, the first at half the picture's; the plane is halved between two of them.
        window_size: side of the attention windows at the deepest level.
        heads: attention heads.
        norm: makes the normalisation layers.
        prior: probability of lesion that the untrained network predicts.
        windows: intensity windows in which each slice comes.
    """

    def __init__(
        self,
        slices: int,
        *,
        width: int,
        levels: int,
        window_size: int,
        heads: int,
        norm: Norm,
        prior: float,
        windows: int = 1,
    ) -> None:
        super().__init__()
        self.slices, self.windows = slices, windows
        self.multiple = FOLD * 2 ** (levels - 1)
        """Number of pixels that the sides of a stack must be a multiple of."""
        channels = [width * 2**level for level in range(levels)]
        self.encoder = nn.ModuleList(
            # The first level has the most pixels and the plainest features: one convolution is enough there.
            ConvBlock3d(before, after, slices, norm, in_plane=1 if level == 0 else 2)
            for level, (before, after) in enumerate(zip([windows * FOLD**2, *channels], channels, strict=False))
        )
        self.attention = SymmetryAttention(channels[-1], slices=slices, window_size=window_size, heads=heads)
        self.gather = nn.ModuleList(nn.Conv2d(c, c, (slices, 1), bias=False) for c in channels)
        self.decoder = nn.ModuleList(
            UpBlock(deep, skip, norm) for deep, skip in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.draft = nn.Conv2d(width, DRAFT * FOLD**2, 1)
        self.outline = conv_norm(DRAFT + windows, 2 * DRAFT, (3, 3), norm)
        self.head = nn.Conv2d(2 * DRAFT, 1, 3, padding=1)
        init_prior(self.head, prior)

    def encode(self, x_BCHW: Tensor) -> list[Tensor]:
        """Feature maps (N, C, H / 2**(l + 1), W / 2**(l + 1)) of all levels l, the deepest last and attended."""
        x_NKHW = x_BCHW.unflatten(1, (self.slices, self.windows)).flatten(0, 1)
        x = F.pixel_unshuffle(x_NKHW, FOLD).contiguous(memory_format=torch.channels_last)
        maps: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            maps.append(x)
        deepest = x.unflatten(0, (-1, self.slices)).transpose(1, 2)
        maps[-1] = self.attention(deepest).transpose(1, 2).flatten(0, 1)
        return maps

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Draft (B, DRAFT, H, W) of the centre slice's lesion."""
        flat = [
            gather(columns(x, self.slices)).squeeze(2).unflatten(2, x.shape[2:])
            for gather, x in zip(self.gather, maps, strict=True)
        ]
        x = flat[-1]
        for block, skip in zip(self.decoder, reversed(flat[:-1]), strict=True):
            x = block(x, skip)
        return F.pixel_shuffle(self.draft(x), FOLD)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Draft (B, DRAFT, H, W) of the centre slice's lesion, in the space of the input: slice by slice all windows.

        Raises:
            ValueError: the sides are no multiple of ``multiple``.
        """
        if any(side % self.multiple for side in x_BCHW.shape[2:]):
            raise ValueError(f"the sides must be multiples of {self.multiple}, not {tuple(x_BCHW.shape[2:])}")
        return self.decode(self.encode(x_BCHW))

    def draw(self, draft_BCHW: Tensor, centre_BKHW: Tensor) -> Tensor:
        """Logits (B, 1, H, W) from a draft and the centre slice that it belongs to, both in one space."""
        return self.head(self.outline(torch.cat([draft_BCHW, centre_BKHW], dim=1)))


def init_prior(head: nn.Conv2d, prior: float) -> None:
    """Bias of a head such that the untrained network predicts ``prior`` everywhere.

    Keeps the first steps on rare lesions from being spent on learning that most pixels are background
    (Lin et al. 2017, Focal Loss, section 4.1).
    """
    assert head.bias is not None
    nn.init.constant_(head.bias, float(torch.logit(torch.tensor(prior))))
