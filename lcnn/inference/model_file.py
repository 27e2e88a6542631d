"""A trained network on disk: a folder with its weights and settings, or any checkpoint of a training.

weights.safetensors   the network's weights, without a pickle
config.yaml           settings, picture, windows, normalisation: all else that prediction needs
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from pydantic import ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data_prep.cohort.normalisation import Normalisation
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import require_room
from data_prep.intensity.window import Window
from data_prep.preprocessing.picture import PictureConfig
from lcnn.checkpoint import checkpoint_config, load_checkpoint
from lcnn.config import TrainConfig, TrainingConfig
from lcnn.network.model import LCNN, build_model
from lcnn.settings_file import read_yaml, validate

MODEL = "model"
"""The model's folder in a run's."""
WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
CHECKPOINTS = ("best.pt", "last.pt")
"""Checkpoints of a training's folder, the one to use first."""
STATISTICS = ("mean", "std")
"""Buffers that hold the normalisation, which a model folder keeps among its settings."""


class ModelSettings(TrainingConfig):
    """What ``config.yaml`` of a model folder holds: how it was trained, and what to do with a picture."""

    windows: tuple[Window, ...] = ()
    """What it learned to see slices in, in HU; empty: one window, which its cohort did not name."""
    normalisation: Normalisation
    """Grey-value statistics of the training patients, for each window."""
    split_hash: str | None = None
    """SHA-256 of the split file that says who trained it, whose patients' names stay behind; None: no such file."""

    @model_validator(mode="after")
    def _windows_are_normalised(self) -> "ModelSettings":
        if max(1, len(self.windows)) != self.normalisation.windows:
            raise ValueError(f"windows: {len(self.windows)}, but normalisation is for {self.normalisation.windows}")
        return self


@dataclass(frozen=True)
class TrainedModel:
    """A network ready to predict, with what it was trained for."""

    net: nn.Module
    config: TrainConfig
    picture: PictureConfig
    windows: tuple[Window, ...] = ()
    """What it learned to see slices in; empty: one window, which its cohort did not name."""

    @property
    def window_count(self) -> int:
        """Number of windows that it sees."""
        return max(1, len(self.windows))

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return next(self.net.parameters()).device


def model_settings(model: TrainedModel, split_hash: str | None = None) -> ModelSettings:
    """The settings of a model's folder."""
    return ModelSettings(
        training=model.config,
        picture=model.picture,
        windows=model.windows,
        normalisation=_normalisation({name: model.net.get_buffer(name) for name in STATISTICS}),
        split_hash=split_hash,
    )


def _normalisation(statistics: Mapping[str, Tensor]) -> Normalisation:
    return Normalisation(**{name: tuple(statistics[name].flatten().tolist()) for name in STATISTICS})


def save_model(folder: Path, model: TrainedModel, split_hash: str | None = None) -> None:
    """Write weights and settings into a folder; ``data_prep.common.files.replacing_folder`` makes it whole or absent.

    Raises:
        OSError: the disk has no room for it.
    """
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in model.net.state_dict().items()
        if name not in STATISTICS
    }
    folder.mkdir(parents=True, exist_ok=True)
    require_room(folder, sum(value.nbytes for value in weights.values()))
    save_file(weights, folder / WEIGHTS)
    settings = model_settings(model, split_hash).model_dump(mode="json")
    (folder / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def hash_split(folder: Path) -> str | None:
    """SHA-256 of a folder's split file; None where there is none."""
    file = folder / "split.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def find_model(path: Path) -> Path:
    """The model folder or checkpoint that a path means: itself, a run's model, or a training's best epoch.

    Raises:
        InputError: there is none.
    """
    if path.is_file():
        return path.parent if path.name == WEIGHTS else path
    for folder in (path / MODEL, path):
        if (folder / WEIGHTS).is_file():
            return folder
    for name in CHECKPOINTS:
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path}: no model there; give a run folder, a model folder, a training's folder, or a .pt file")


def load_model(path: Path, device: str = "cpu") -> TrainedModel:
    """Read a network from a run folder, a model folder, a training's folder, or any checkpoint.

    Raises:
        InputError: missing, damaged, or of another program.
    """
    place = find_model(path)
    settings, weights, file = _read_folder(place) if place.is_dir() else _read_checkpoint(place)
    net = network(settings)
    try:
        net.load_state_dict({**weights, **{name: net.get_buffer(name) for name in STATISTICS}})
    except RuntimeError as error:
        raise InputError(f"{file}: weights do not fit their own settings; the file is damaged") from error
    return TrainedModel(net.to(device).eval(), settings.training, settings.picture, settings.windows)


def read_settings(folder: Path) -> ModelSettings:
    """The settings of a model folder.

    Raises:
        InputError: missing, damaged, or of another version.
    """
    file = folder / CONFIG
    return validate(ModelSettings, read_yaml(file), str(file))


def network(settings: ModelSettings) -> LCNN:
    """The network that a model's settings describe, still without its weights."""
    return build_model(settings.training.without_initial_weights(), settings.normalisation)


def _read_folder(folder: Path) -> tuple[ModelSettings, Mapping[str, Tensor], Path]:
    settings = read_settings(folder)
    file = folder / WEIGHTS
    try:
        return settings, load_file(file), file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not readable ({first_line(error)}); restore it from a copy") from error


def _read_checkpoint(path: Path) -> tuple[ModelSettings, Mapping[str, Tensor], Path]:
    state = load_checkpoint(path)
    config = checkpoint_config(state, path)
    try:
        weights = dict(state["model"])
        statistics = {name: weights.pop(name) for name in STATISTICS}
        settings = ModelSettings(
            training=config,
            picture=validate(PictureConfig, state["picture"], f"{path}: picture"),
            windows=tuple(Window.model_validate(window) for window in state.get("windows", ())),
            normalisation=_normalisation(statistics),
        )
    except (KeyError, ValidationError) as error:
        raise InputError(f"{path}: weights do not fit their own settings; the file is damaged") from error
    return settings, weights, path
