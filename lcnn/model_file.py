"""A trained network as one file: weights, settings and normalisation, enough to predict with."""

from pathlib import Path

from torch import nn

from data_prep.errors import InputError
from data_prep.split import Normalisation
from lcnn.checkpoint import checkpoint_config, load_checkpoint, save_checkpoint
from lcnn.config import TrainConfig
from lcnn.model import LCNN, build_model


def save_model(path: Path, model: nn.Module, config: TrainConfig) -> None:
    """Write the network with its settings; the normalisation is among its buffers."""
    save_checkpoint(path, {"config": config.model_dump_json(), "model": model.state_dict()})


def load_model(path: Path, device: str = "cpu") -> tuple[LCNN, TrainConfig]:
    """Read a network from a model file or from any checkpoint of a training.

    Raises:
        InputError: missing, damaged, or of another program.
    """
    state = load_checkpoint(path)
    config = checkpoint_config(state, path)
    # The weights come from the file, so the start of the global path need not be at hand any more.
    bare = config.model_copy(update={"model": config.model.model_copy(update={"weights": "none"})})
    model = build_model(bare, Normalisation(mean=0.0, std=1.0))
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, KeyError) as error:
        raise InputError(f"{path}: weights do not fit their own settings; the file is damaged") from error
    return model.to(device).eval(), config
