"""A head drawn from formulas, in any pose: skin, skull, brain with ventricles, nose; what lies where is known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

SHAPE = 15, 110, 120
VOXEL_MM = 9.0, 2.0, 2.0
BONE, BRAIN, SKIN, FLUID = 255, 110, 100, 30


@dataclass(frozen=True)
class DrawnHead:
    """Grey values, and where the brain (with its fluid) and the whole head are, (Z, H, W)."""

    image_ZHW: NDArray[np.uint8]
    brain_ZHW: NDArray[np.bool_]
    head_ZHW: NDArray[np.bool_]


def draw_head(yaw_deg: float = 0.0, roll_deg: float = 0.0, shift_mm: float = 0.0) -> DrawnHead:
    """A head turned in the slices and about the front-back axis, and moved along the normal of its mirror plane."""
    turn = Rotation.from_euler("XY", [-yaw_deg, -roll_deg], degrees=True).as_matrix()  # axes z, y, x
    steps = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij"), axis=-1)
    z, y, x = np.moveaxis((steps * VOXEL_MM - shift_mm * turn[:, 2]) @ turn, -1, 0)

    def ellipsoid(radii: tuple[float, float, float], centre: tuple[float, float, float] = (0, 0, 0)) -> NDArray:
        return sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True)) <= 1

    # The neck and the base are below the slices; a rounder head would tell no roll.
    skin = ellipsoid((110, 92, 76), (-45, 0, 0)) | ellipsoid((24, 14, 12), (-40, -92, 0))
    brain = ellipsoid((96, 78, 62), (-45, 0, 0))
    image = np.where(skin, SKIN, 0)
    image[ellipsoid((104, 86, 70), (-45, 0, 0))] = BONE
    image[brain] = BRAIN
    for side in (-1, 1):
        image[ellipsoid((18, 30, 8), (5, 0, 14 * side))] = FLUID
    return DrawnHead(image.astype(np.uint8), brain, skin)
