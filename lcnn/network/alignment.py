"""Midline alignment: find the in-plane pose of the head, undo it, and put predictions back.

Left-right mirror symmetry identifies only the in-plane angle and the left-right shift, so the network
predicts just these two. It finds them in the overview of the whole volume (`lcnn.network.stacks.overview`): means of
many slices, in which noise, lesions and small asymmetries count for less than in the few slices of a stack. All
geometry stays in float32: a bf16 grid is wrong by half a pixel at 512 pixels.

Legend: B stacks, C pictures of a head, D slices of a stack, H rows, W columns (H == W). Coordinates are torch's
normalised ones: -1 and 1 are the outer edges of the picture, x grows to the right of the picture, y downward.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_GREY = 24.0
"""Grey value (of 255) above which a pixel counts as head rather than air."""
POSE_SIDE = 32
"""Side in pixels at which the pose is estimated and the symmetry measured: 64 cost thrice the time and found the
phantom's angle no better (docs/explanation/lcnn-attempts.md)."""


class Pose(NamedTuple):
    """Where the midline lies in the picture; zero for a head that is upright and centred."""

    angle_rad_B: Tensor
    """Rotation of the midline from the vertical; positive turns its upper end to the right of the picture."""
    shift_B: Tensor
    """Left-right position of the midline at the picture's centre row, normalised."""


class AlignmentNetwork(nn.Module):
    """A small convolutional regressor of the pose from so many pictures; predicts exactly zero at initialisation.

    It is odd under mirroring by construction: a mirrored picture has the opposite pose, and a symmetric one
    none. A pose that is the same for every picture, at which the tanh would saturate, cannot be learned.
    """

    def __init__(self, pictures: int, *, max_angle_deg: float, max_shift: float, channels: int = 16) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        layers: list[nn.Module] = []
        for before, after in zip((pictures, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        # Position matters for a pose, so the map is flattened, not averaged.
        flat = widths[-1] * (POSE_SIDE // 2 ** len(widths)) ** 2
        self.regressor = nn.Sequential(nn.Linear(flat, 64), nn.SiLU(), nn.Linear(64, 2, bias=False))
        self.max_angle_rad = math.radians(max_angle_deg)
        self.max_shift = 2.0 * max_shift  # the normalised picture is 2 wide
        head = self.regressor[-1]
        assert isinstance(head, nn.Linear)
        nn.init.zeros_(head.weight)

    def forward(self, unit_BCHW: Tensor) -> Pose:
        """Pose of each head from its pictures' grey values in 0..1; each part is bounded by its maximum."""
        small = pose_view(unit_BCHW) - 0.5
        both = self.regressor(self.features(torch.cat([small, small.flip(-1)])).flatten(1)).float()
        own, mirrored = both.unflatten(0, (2, -1)).unbind()
        raw_B2 = torch.tanh((own - mirrored) / 2)
        return Pose(raw_B2[:, 0] * self.max_angle_rad, raw_B2[:, 1] * self.max_shift)


def pose_view(unit_BCHW: Tensor) -> Tensor:
    """The pictures averaged (or interpolated) to POSE_SIDE pixels; those of that size as they are."""
    if unit_BCHW.shape[-1] == POSE_SIDE:
        return unit_BCHW
    if unit_BCHW.shape[-1] > POSE_SIDE:
        return F.adaptive_avg_pool2d(unit_BCHW, POSE_SIDE)
    return F.interpolate(unit_BCHW, size=(POSE_SIDE, POSE_SIDE), mode="bilinear", align_corners=False)


def _matrices(pose: Pose) -> tuple[Tensor, Tensor]:
    """Sampling matrices (B, 2, 3): picture points of aligned points, and the reverse."""
    angle, shift = pose.angle_rad_B.float(), pose.shift_B.float()
    cos, sin = torch.cos(angle), torch.sin(angle)
    zero = torch.zeros_like(shift)
    # Turning the upper end (y = -1) to the right means x = shift - y * sin.
    to_picture = torch.stack([cos, -sin, shift, sin, cos, zero], dim=1).view(-1, 2, 3)
    to_aligned = torch.stack([cos, sin, -cos * shift, -sin, cos, sin * shift], dim=1).view(-1, 2, 3)
    return to_picture, to_aligned


def _sample(x_BCHW: Tensor, matrix_B23: Tensor, padding: str, side: int | None) -> Tensor:
    with torch.autocast(x_BCHW.device.type, enabled=False):
        x = x_BCHW.float()
        size = [*x.shape[:2], *((side, side) if side else x.shape[2:])]
        grid = F.affine_grid(matrix_B23.float(), size, align_corners=False)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def align(x_BDHW: Tensor, pose: Pose, side: int | None = None) -> Tensor:
    """Undo the pose: the midline comes to the vertical centre line. Air (0) fills what was out of view.

    ``side``: pixels of the result; default: those of the input.
    """
    return _sample(x_BDHW, _matrices(pose)[0], "zeros", side)


def unalign(x_BCHW: Tensor, pose: Pose, side: int | None = None) -> Tensor:
    """Put a map made in aligned space back into the picture; the border value fills what was out of view.

    ``side``: pixels of the result; default: those of the input.
    """
    return _sample(x_BCHW, _matrices(pose)[1], "border", side)


def asymmetry(unit_BCHW: Tensor, pose: Pose | None) -> Tensor:
    """Mean absolute difference between each aligned head (B) and its mirror image, in grey values of 0..1.

    The mean runs over the head or its mirror image, whichever is present, so that neither black background
    dilutes the difference nor moving the head out of view removes it; 0 where there is no head. Without a pose:
    of the picture as it is.
    """
    small = pose_view(unit_BCHW).float()
    aligned = small if pose is None else align(small, pose)
    difference = (aligned - aligned.flip(-1)).abs()
    with torch.no_grad():
        whole = (small > HEAD_GREY / 255).float()
        head = whole if pose is None else align(whole, pose)
        either = torch.maximum(head, head.flip(-1))
        size_B = either.sum(dim=(1, 2, 3))
        lost_B = (whole - head).sum(dim=(1, 2, 3)).clamp_min(0.0)
    # What of the head has left the view counts as wholly asymmetric.
    return ((difference * either).sum(dim=(1, 2, 3)) + lost_B) / (size_B + lost_B).clamp_min(1.0)


def soften_gradient(pose: Pose, share: float) -> Pose:
    """The same pose, whose gradient is passed back at ``share`` of its size."""
    return Pose(*(part * share + part.detach() * (1 - share) for part in pose))
