"""Where the time of a training step goes, by torch's profiler.

Functions and modules at the borders of the parts run inside a named scope each. A part's forward time is that of its
scopes, without the scopes inside them. A node of the backward pass belongs to the part whose operator made it, which
torch numbers alike (``sequence_nr``). What is in no part, the profiler's own work included, is ``other``; so the parts
add up to the step. On a GPU the times are those of its kernels, but for reading, during which it waits; what else it
waits is in ``other``. The profiler makes a step about a tenth longer (cpu profile, one core: 109 ms for 99).
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

import lcnn.network.model
import lcnn.training.fit
from lcnn.config import TrainConfig
from lcnn.network.alignment import AlignmentNetwork
from lcnn.network.attention import SymmetryAttention
from lcnn.network.global_path import GlobalPath
from lcnn.network.local_path import LocalPath
from lcnn.network.model import LCNN
from lcnn.training.fit import TrainingData

BACKWARD = "autograd::engine::evaluate_function: "


class Part(StrEnum):
    """The parts of a training step."""

    DATA = "waiting for data"
    """Reading stacks from the store, bringing them to the device."""
    AUGMENTATION = "augmentation"
    ALIGNMENT = "alignment"
    """Alignment network, both warps, symmetry loss."""
    ENCODER = "encoder"
    ATTENTION = "attention"
    DECODER = "decoder"
    GLOBAL_PATH = "global path"
    FUSION = "fusion"
    """What the network does between its modules: normalisation, the fusion of both paths."""
    LOSS = "loss"
    OPTIMIZER = "optimizer"
    """Clearing the gradient, clipping it, changing the weights."""
    OTHER = "other"


BORDERS: Sequence[tuple[Any, str, Part]] = (
    (lcnn.training.fit._Training, "_read", Part.DATA),
    (lcnn.training.fit, "draw_affine", Part.AUGMENTATION),
    (lcnn.training.fit, "augment", Part.AUGMENTATION),
    (lcnn.network.model, "pose_view", Part.ALIGNMENT),
    (lcnn.network.model, "align", Part.ALIGNMENT),
    (lcnn.network.model, "unalign", Part.ALIGNMENT),
    (lcnn.network.model, "asymmetry", Part.ALIGNMENT),
    (AlignmentNetwork, "forward", Part.ALIGNMENT),
    (LocalPath, "encode", Part.ENCODER),
    (SymmetryAttention, "forward", Part.ATTENTION),
    (LocalPath, "decode", Part.DECODER),
    (LocalPath, "draw", Part.DECODER),
    (GlobalPath, "forward", Part.GLOBAL_PATH),
    (LCNN, "forward", Part.FUSION),
    (lcnn.training.fit, "lcnn_loss", Part.LOSS),
    (nn.utils, "clip_grad_norm_", Part.OPTIMIZER),
)
"""What runs in which part; the profiler names the optimizer's own work itself."""


@dataclass(frozen=True)
class PartTime:
    """What one part takes of a training step, in milliseconds."""

    part: Part
    forward_ms: float
    backward_ms: float

    @property
    def ms(self) -> float:
        """Both ways."""
        return self.forward_ms + self.backward_ms


@dataclass(frozen=True)
class StepParts:
    """A training step taken apart."""

    parts: tuple[PartTime, ...]
    profiled_ms: float
    """A step by the training's own clock while it is profiled."""
    plain_ms: float
    """A step of the same training in the epochs between, without the profiler."""

    @property
    def sum_ms(self) -> float:
        """All parts together."""
        return sum(part.ms for part in self.parts)

    def share(self, *parts: Part) -> float:
        """Share of these parts in the sum of all."""
        return sum(part.ms for part in self.parts if part.part in parts) / self.sum_ms


def take_apart(config: TrainConfig, data: TrainingData, device: str, *, rounds: int, steps: int) -> StepParts:
    """Train with and without the profiler by turns, ``rounds`` epochs of ``steps`` steps each; medians over the epochs.

    It is a training of `lcnn.training.fit.fit`, validation aside; an epoch of each kind comes first, not counted.
    """
    loop = {"epochs": 2 * (rounds + 1), "stacks_per_epoch": steps * config.train.batch_size}
    training = lcnn.training.fit.fit(
        config.model_copy(update={"train": config.train.model_copy(update=loop)}), data, device=device
    )
    on_gpu = torch.device(device).type == "cuda"
    plain_ms, profiled_ms, times = [], [], []
    for _ in range(rounds + 1):
        plain_ms.append(1e3 * next(training).seconds / steps)
        with _scopes(), profiling(on_gpu=on_gpu) as profiler:
            profiled_ms.append(1e3 * next(training).seconds / steps)
        times.append(times_of(profiler.events() or (), profiled_ms[-1] * steps, on_gpu=on_gpu))
    parts = tuple(PartTime(p, *(median(t[p][way] for t in times[1:]) / steps for way in (0, 1))) for p in Part)
    return StepParts(parts, median(profiled_ms[1:]), median(plain_ms[1:]))


def profiling(*, on_gpu: bool = False, memory: bool = False) -> profile:
    """Torch's profiler, which says nothing on stderr when it starts and stops."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    return profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu], profile_memory=memory)


@contextmanager
def _scopes() -> Iterator[None]:
    """While the block runs, everything at a border is seen by the profiler under its part's name."""
    with ExitStack() as stack:
        for owner, name, part in BORDERS:
            stack.enter_context(patch.object(owner, name, record_function(part.value)(getattr(owner, name))))
        yield


def times_of(events: Iterable[FunctionEvent], whole_ms: float, *, on_gpu: bool) -> dict[Part, tuple[float, float]]:
    """Milliseconds of every part, forward and backward, of all that was profiled in ``whole_ms``."""
    forward_us: dict[Part, float] = defaultdict(float)
    backward_us: dict[Part, float] = defaultdict(float)
    makers: dict[int, Part] = {}
    part = Part.OTHER
    for event in sorted(events, key=lambda event: event.time_range.start):
        took_us = event.device_time_total if on_gpu and event.name != Part.DATA else event.cpu_time_total
        if event.name.startswith(BACKWARD):
            # What adds a gradient to its weight was made by no operator; it follows the node that needs the weight.
            part = makers.get(event.sequence_nr, part)
            backward_us[part] += took_us
        elif own := _part(event):
            forward_us[own] += took_us
            if around := _part_around(event):
                forward_us[around] -= took_us
        elif event.sequence_nr >= 0 and (around := _part_around(event)):
            # Operators without a gradient have the number of the next that has one: the last of a number made the node.
            makers[event.sequence_nr] = around
    forward_us[Part.OTHER] = 1e3 * whole_ms - sum(forward_us.values()) - sum(backward_us.values())
    return {part: (forward_us[part] / 1e3, backward_us[part] / 1e3) for part in Part}


def _part(event: FunctionEvent) -> Part | None:
    if event.name.startswith("Optimizer."):
        return Part.OPTIMIZER
    return Part(event.name) if event.name in set(Part) else None


def _part_around(event: FunctionEvent) -> Part | None:
    parent = event.cpu_parent
    return None if parent is None else _part(parent) or _part_around(parent)
