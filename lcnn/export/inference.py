"""What a bundle runs of ours: the patients of a folder, the network, and how a volume goes through it.

Legend: B volumes, K windows, Z slices, H rows, W columns, C channels, S side of the picture.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from PIL import Image
from torch import Tensor

from data_prep.cohort.pixels import as_grey
from data_prep.common.errors import InputError
from data_prep.intensity.window import COLOURS
from lcnn.export.graph import LogitNetwork
from lcnn.inference.model_file import ModelSettings, network
from lcnn.inference.predict import input_patients, predict_slices
from lcnn.settings_file import validate


def settings_in_bundle(settings: Mapping[str, Any]) -> ModelSettings:
    """A bundle's settings, checked.

    Raises:
        InputError: they are not of this version.
    """
    return validate(ModelSettings, settings, "inference.json: settings")


def logit_network(settings: Mapping[str, Any]) -> LogitNetwork:
    """The network that a bundle's settings describe, still without its weights."""
    return LogitNetwork(network(settings_in_bundle(settings)))


def patient_items(folder: str) -> list[dict[str, list[str]]]:
    """An item a patient, for MONAI's datasets: the files of its slices in order.

    Raises:
        InputError: there are no slices.
    """
    return [{"image": [str(file) for file in files]} for _, files in input_patients(Path(folder))]


def grey_picture(image: Image.Image) -> Image.Image:
    """A slice as 8-bit grey; a converter for MONAI's PILReader.

    Raises:
        InputError: it holds more than 8 bits a pixel.
    """
    return as_grey(image, Path(getattr(image, "filename", "slice")))


def colour_picture(image: Image.Image) -> Image.Image:
    """A slice whose colours are windows; a converter for MONAI's PILReader.

    Raises:
        InputError: it is no colour picture.
    """
    if image.mode != "RGB":
        place = getattr(image, "filename", "slice")
        raise InputError(f"{place}: {image.mode} pixels; the model sees windows as the colours of a picture")
    return image


def as_stack(image: Tensor) -> Tensor:
    """Grey slices (Z, H, W) as MONAI reads a patient's files: stacked, but for a single one (H, W)."""
    return image if image.ndim == 3 else image.unsqueeze(0)


def by_window(image_CHW: Tensor, windows: int) -> Tensor:
    """Slices (K, Z, H, W) from the colours of all slices, one slice after the other, of which the first are windows."""
    return image_CHW.unflatten(0, (-1, COLOURS))[:, :windows].movedim(1, 0)


class StackInferer(Inferer):
    """Runs a network of stacks over whole volumes, as SlidingWindowInferer does with one of patches.

    Args:
        settings: the model's, as a bundle holds them.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = settings_in_bundle(settings)

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Probability of lesion (B, 1, Z, H, W) of grey values 0..255 (B, K, Z, H, W)."""

        def logits(grey_BCSS: Tensor) -> Tensor:
            return network(grey_BCSS.float().to(inputs.device), *args, **kwargs)[:, 0]

        volumes = [
            predict_slices(
                image_KZHW.swapaxes(0, 1),
                logits,
                picture=self.settings.picture,
                half_width=self.settings.training.T,
                at_once=self.settings.training.train.stacks_at_once,
            )
            for image_KZHW in inputs.cpu().numpy().astype(np.uint8)
        ]
        probability: Tensor
        probability, *_ = convert_to_dst_type(np.stack(volumes)[:, None], inputs, dtype=torch.float32)
        return probability
