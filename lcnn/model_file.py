"""A trained network as one file: weights, settings, normalisation and picture size, enough to predict with."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from data_prep.errors import InputError
from data_prep.split import Normalisation
from lcnn.checkpoint import checkpoint_config, load_checkpoint, save_checkpoint
from lcnn.config import PictureConfig, TrainConfig
from lcnn.model import build_model


@dataclass(frozen=True)
class TrainedModel:
    """A network ready to predict, with what it was trained for."""

    net: nn.Module
    config: TrainConfig
    picture: PictureConfig

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return next(self.net.parameters()).device


def save_model(path: Path, model: TrainedModel) -> None:
    """Write the network with its settings; the normalisation is among its buffers."""
    save_checkpoint(
        path,
        {
            "config": model.config.model_dump_json(),
            "picture": model.picture.model_dump(),
            "model": model.net.state_dict(),
        },
    )


def load_model(path: Path, device: str = "cpu") -> TrainedModel:
    """Read a network from a model file or from any checkpoint of a training.

    Raises:
        InputError: missing, damaged, or of another program.
    """
    state = load_checkpoint(path)
    config = checkpoint_config(state, path)
    # The weights come from the file, so the start of the global path need not be at hand any more.
    bare = config.model_copy(update={"model": config.model.model_copy(update={"weights": "none"})})
    net = build_model(bare, Normalisation(mean=0.0, std=1.0))
    try:
        picture = PictureConfig.model_validate(state["picture"])
        net.load_state_dict(state["model"])
    except (RuntimeError, KeyError, ValidationError) as error:
        raise InputError(f"{path}: weights do not fit their own settings; the file is damaged") from error
    return TrainedModel(net.to(device).eval(), config, picture)
