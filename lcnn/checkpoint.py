"""Checkpoints: written in one step, read without unpickling code, refused where they are not ours."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from data_prep.errors import InputError
from data_prep.files import replacing

KIND = "lcnn-checkpoint"
FORMAT = 1


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to ``path``; an interruption leaves the former file intact."""
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
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise InputError(f"{path}: truncated or not a checkpoint; delete it to train from the start") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InputError(f"{path}: a file of another program; delete it to train from the start")
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: checkpoint format {content.get('format')}, this program reads {FORMAT}")
    return content
