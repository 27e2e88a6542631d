"""Checkpoints: written in one step, read without unpickling code, refused where they are not ours."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.utils._pytree import tree_leaves

from data_prep.common.errors import InputError
from data_prep.common.files import replacing, require_room
from lcnn.config import TrainConfig

KIND = "lcnn-checkpoint"
FORMAT = 1
# What torch's restricted unpickler raises on files that are truncated, foreign or plain text.
UNREADABLE = (OSError, RuntimeError, UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError)


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to ``path``; an interruption leaves the former file intact.

    Raises:
        OSError: the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    require_room(path.parent, sum(leaf.nbytes for leaf in tree_leaves(dict(content)) if isinstance(leaf, Tensor)))
    with replacing(path) as partial:
        torch.save({"kind": KIND, "format": FORMAT, **content}, partial)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, on the CPU.

    Raises:
        InputError: the file is missing, truncated, of another program or of another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint; check the run folder and trial number") from error
    except UNREADABLE as error:
        raise InputError(f"{path}: truncated or not a checkpoint; delete it to train from the start") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InputError(f"{path}: a file of another program; delete it to train from the start")
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: checkpoint format {content.get('format')}, this program reads {FORMAT}")
    return content


def checkpoint_config(content: Mapping[str, Any], path: Path) -> TrainConfig:
    """The settings that a checkpoint was made with.

    Raises:
        InputError: it has none, or they are not of this version.
    """
    try:
        return TrainConfig.model_validate_json(content["config"])
    except (KeyError, ValidationError) as error:
        raise InputError(f"{path}: holds no settings that this version reads; train again") from error
