"""Prediction on a patient's own pictures, on their own grid; the same code tests a model and uses it.

Legend: Z slices of a patient, K windows, H rows, W columns (native), B stacks, D slices of a stack, V pictures of an
overview, C = V + D * K channels, S side the network sees.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.cohort.layout import Spacing, slice_files
from data_prep.common.errors import InputError
from data_prep.preprocessing.framing import frame
from data_prep.preprocessing.picture import PictureConfig
from lcnn.inference.model_file import TrainedModel
from lcnn.network.stacks import as_channels, neighbours, overview
from lcnn.training.fit import predict_logits, resolve_precision

Logits = Callable[[Tensor], Tensor]
"""Log-odds (B, S, S) of lesion from stacks of grey values, uint8 (B, C, S, S) on the CPU."""


def predict_volume(
    model: TrainedModel, image_ZKHW: NDArray[np.uint8], spacing_mm: Spacing | None = None
) -> NDArray[np.float32]:
    """Probability of lesion, float32 (Z, H, W), of slices in the model's windows, from the skull base upward.

    ``spacing_mm``: distances between voxel centres along Z, H and W, where they are known.
    """
    dtype = resolve_precision(model.config.train.precision, model.device)
    return predict_slices(
        image_ZKHW,
        lambda grey_BCSS: predict_logits(model.net, grey_BCSS.to(model.device), dtype),
        picture=model.picture,
        half_width=model.config.T,
        at_once=model.config.train.stacks_at_once,
        spacing_mm=spacing_mm,
    )


@torch.inference_mode()
def predict_slices(
    image_ZKHW: NDArray[np.uint8],
    logits: Logits,
    *,
    picture: PictureConfig,
    half_width: int,
    at_once: int,
    spacing_mm: Spacing | None = None,
) -> NDArray[np.float32]:
    """Probability of lesion, float32 (Z, H, W), by whatever gives logits of stacks.

    The slices are prepared as those that the network was trained on; the result is brought back.

    Args:
        image_ZKHW: 8-bit grey slices in the network's windows, ordered from the skull base upward.
        logits: the network.
        picture: how slices are brought to it.
        half_width: T, slices on each side of the centre.
        at_once: stacks that go through it at a time.
        spacing_mm: distances between voxel centres along Z, H and W, where they are known.
    """
    slices = len(image_ZKHW)
    framing = frame(image_ZKHW[:, 0], picture, spacing_mm)
    stored_ZKSS = framing.windows(image_ZKHW)
    stack_ZD = neighbours(np.arange(slices), half_width, 0, slices - 1)
    overview_VSS = overview(stored_ZKSS[:, 0])
    probability: list[NDArray[np.float32]] = []
    for start in range(0, slices, at_once):
        stacks_BCSS = as_channels(stored_ZKSS[stack_ZD[start : start + at_once]])
        overviews_BVSS = np.broadcast_to(overview_VSS, (len(stacks_BCSS), *overview_VSS.shape))
        grey_BCSS = torch.from_numpy(np.concatenate([overviews_BVSS, stacks_BCSS], axis=1))
        probability += list(torch.sigmoid(logits(grey_BCSS)).cpu().numpy())
    return framing.to_native(np.stack(probability))


def input_patients(path: Path) -> list[tuple[str, list[Path]]]:
    """Patients' names and slice files of an input: one slice, one folder of slices, or a folder of such folders.

    Raises:
        InputError: there are no slices.
    """
    if path.is_file():
        return [(path.stem, [path])]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    patients = _picture_folders(path)
    if not patients:
        raise InputError(f"{path}: no slices (.png, .jpg, .tif), NIfTI or DICOM files in it or in its folders")
    return patients


def has_pictures(folder: Path) -> bool:
    """Whether there are slices in a folder or in its folders."""
    return bool(_picture_folders(folder))


def _picture_folders(path: Path) -> list[tuple[str, list[Path]]]:
    root = next((path / name for name in ("images", "image") if (path / name).is_dir()), path)
    folders = [root, *sorted(folder for folder in root.iterdir() if folder.is_dir())]
    found = [(folder.name, list(slice_files(folder).values())) for folder in folders]
    return [(name, files) for name, files in found if files]
