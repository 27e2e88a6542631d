"""Small scans as real files, for the tests of what reads them."""

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

RAS = np.diag([0.5, 0.6, 5.0, 1.0])
"""Of a file whose axes point to the right, to the front and upward, with voxels of 0.5 x 0.6 x 5 mm."""


def head_hu(seed: int = 0, shape: tuple[int, int, int] = (24, 20, 4)) -> NDArray[np.float32]:
    """A block of brain in air, in HU; every voxel differs from its neighbours."""
    values = np.full(shape, -1000, dtype=np.float32)
    inner = values[3:-3, 3:-3]
    inner[:] = np.random.default_rng(seed).integers(0, 80, inner.shape)
    return values


def spot(shape: tuple[int, int, int] = (24, 20, 4), value: int = 1) -> NDArray[np.uint8]:
    """A lesion in the third slice, to the right and in front of the middle."""
    mask = np.zeros(shape, dtype=np.uint8)
    mask[15:19, 13:16, 2] = value
    return mask


def save_nifti(path: Path, values: NDArray, affine: NDArray[np.float64] = RAS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def save_png(path: Path, pixels_HW: NDArray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HW).save(path)
    return path


def grey_slice(seed: int = 0, size: int = 24) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size, size)).astype(np.uint8)


def nifti_patients(root: Path, count: int = 3) -> Path:
    """BIDS names; every patient's voxels and spacing are their own."""
    for number in range(count):
        folder, affine = root / f"sub-Doe{number}" / "ct", RAS * np.array([1, 1, 1 + number / 10, 1])
        save_nifti(folder / f"sub-Doe{number}_ct.nii.gz", head_hu(number), affine)
        save_nifti(folder / f"sub-Doe{number}_lesion_mask.nii.gz", spot(), affine)
    return root


def picture_patients(root: Path, labels: tuple[int, ...] = (255, 255)) -> Path:
    """A patient a label, of two slices; the second holds a lesion."""
    for number, label in enumerate(labels):
        for z in range(2):
            mask_HW = np.zeros((24, 24), dtype=np.uint8)
            mask_HW[5:9, 5:9] = label * z
            save_png(root / "image" / f"00914{number}" / f"{z:03d}.png", grey_slice(number * 9 + z))
            save_png(root / "mask" / f"00914{number}" / f"{z:03d}.png", mask_HW)
    return root
