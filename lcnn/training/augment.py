"""Random flips, rotations, shifts and scalings of a batch of stacks with their masks, on its own device.

Legend: B stacks, D slices of a stack, S side.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lcnn.config import AugmentConfig


def draw_affine(config: AugmentConfig, count: int, generator: torch.Generator) -> Tensor:
    """Sampling matrices (count, 2, 3) for ``affine_grid``: one change a stack.

    Drawn on the CPU whatever the device, so that a seed means the same everywhere.
    """
    unit = torch.rand(count, 5, generator=generator) * 2 - 1
    angle = unit[:, 0] * math.radians(config.rotation_deg)
    low, high = config.scale
    zoom = 1 / (low + (unit[:, 1] + 1) / 2 * (high - low))
    mirror = torch.where((unit[:, 2] + 1) / 2 < config.flip, -1.0, 1.0)
    shift_x, shift_y = (unit[:, 3:] * 2 * config.shift).unbind(1)  # the normalised picture is 2 wide
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    return torch.stack([mirror * cos, -mirror * sin, shift_x, sin, cos, shift_y], dim=1).view(-1, 2, 3)


def augment(grey_BDSS: Tensor, lesion_BSS: Tensor, matrix_B23: Tensor) -> tuple[Tensor, Tensor]:
    """Apply one affine change to each stack and its mask alike; what comes into view is air without lesion."""
    moved = move(torch.cat([grey_BDSS, lesion_BSS.unsqueeze(1)], dim=1), matrix_B23)
    return moved[:, :-1], moved[:, -1]


def move(maps_BCSS: Tensor, matrix_B23: Tensor) -> Tensor:
    """Apply one affine change to all maps of each stack; what comes into view is 0."""
    grid = F.affine_grid(matrix_B23.to(maps_BCSS.device), list(maps_BCSS.shape), align_corners=False)
    return F.grid_sample(maps_BCSS, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
