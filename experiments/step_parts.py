"""Where the time of a training step goes: one clock that is always in exactly one part of the step.

A training of `lcnn.training.fit.fit` runs as it always does; the functions and modules at the borders of its parts
tell a `Timeline` that the part has changed. In the forward pass a call does so. For the backward pass, tensors that
cross a border are marked there: autograd works through its nodes in the reverse order of their making, so the gradient
comes to a border's mark when all that was made after the border is done and nothing that was made before it has begun.
The parts therefore add up to the whole; what is in no named part is ``other``.

What LCNN does between its modules goes by order: the local path is ``encoder`` before its attention and ``decoder``
after it, and what LCNN itself does after the global path is ``fusion``.
"""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import lcnn.network.model
import lcnn.training.fit
from data_prep.cohort.normalisation import Normalisation
from lcnn.config import OptimConfig, TrainConfig
from lcnn.network.stacks import StackSource
from lcnn.training.fit import Build, TrainingData


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
    LOSS = "loss"
    OPTIMIZER = "optimizer"
    """Clearing the gradient, clipping it, changing the weights."""
    OTHER = "other"


class Phase(StrEnum):
    """Which way the step goes."""

    FORWARD = "forward"
    BACKWARD = "backward"


Stamp = float | torch.cuda.Event
Times = dict[tuple[Part, Phase], float]
"""Seconds by part and phase."""


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Timeline:
    """Which part a program is in, from moment to moment.

    On a GPU the moments are events in its stream: the time of a part is what the GPU takes over it, waiting for the
    CPU included, and no synchronisation changes what is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stack = [Part.OTHER]
        self._switches: list[tuple[Stamp, Part, Phase]] = []

    @contextmanager
    def recording(self) -> Iterator[Times]:
        """Record what the block does; the times are there when it ends."""
        times: Times = defaultdict(float)
        self._stack, self._switches = [Part.OTHER], []
        synchronise(self._device)
        self._switch(Part.OTHER, Phase.FORWARD)
        yield times
        self._switch(Part.OTHER, Phase.FORWARD)
        synchronise(self._device)
        for (start, part, phase), (end, *_) in zip(self._switches, self._switches[1:], strict=False):
            times[part, phase] += _seconds(start, end)

    def wrap(self, part: Part, function: Callable[..., Any], then: Part | None = None) -> Callable[..., Any]:
        """The same function, during which, and during whose gradient, the program is in ``part``.

        ``then`` is what the program is in after the call, up to the end of the wrapped function around it.
        """

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            args = self._marked(args, self._stack[-1])
            self._stack.append(part)
            self._switch(part, Phase.FORWARD)
            result = self._marked(function(*args, **kwargs), self._stack[-1])
            self._stack.pop()
            if then is not None:
                self._stack[-1] = then
            self._switch(self._stack[-1], Phase.FORWARD)
            return result

        return timed

    def _switch(self, part: Part, phase: Phase) -> None:
        self._switches.append((self._now(), part, phase))

    def _now(self) -> Stamp:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _marked(self, value: Any, before: Part) -> Any:
        """The same tensors; when their gradient arrives here, the backward pass goes on to ``before``."""
        if isinstance(value, Tensor) and value.requires_grad:
            # A node of its own, for that of the tensor may be older than others of the part.
            seen = value.view_as(value)
            seen.register_hook(lambda _: self._switch(before, Phase.BACKWARD))
            return seen
        if isinstance(value, tuple):
            items = [self._marked(item, before) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        return value


def _seconds(start: Stamp, end: Stamp) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return start.elapsed_time(end) / 1e3
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start


@contextmanager
def _marked_training(timeline: Timeline) -> Iterator[None]:
    """While the block runs, trainings tell the timeline where they are outside the network's modules."""
    make_optimizer = lcnn.training.fit.make_optimizer

    def marked_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
        optimizer = make_optimizer(model, config)
        for name in ("step", "zero_grad"):
            setattr(optimizer, name, timeline.wrap(Part.OPTIMIZER, getattr(optimizer, name)))
        return optimizer

    # What follows reading is bringing the stacks to the device, up to their augmentation.
    functions: list[tuple[Any, str, Part, Part | None]] = [
        (StackSource, "batch", Part.DATA, Part.DATA),
        (lcnn.training.fit, "draw_affine", Part.AUGMENTATION, Part.OTHER),
        (lcnn.training.fit, "augment", Part.AUGMENTATION, Part.OTHER),
        (lcnn.network.model, "pose_view", Part.ALIGNMENT, None),
        (lcnn.network.model, "align", Part.ALIGNMENT, None),
        (lcnn.network.model, "unalign", Part.ALIGNMENT, None),
        (lcnn.network.model, "asymmetry", Part.ALIGNMENT, None),
        (lcnn.training.fit, "lcnn_loss", Part.LOSS, None),
        (nn.utils, "clip_grad_norm_", Part.OPTIMIZER, None),
    ]
    with ExitStack() as stack:
        for owner, name, part, then in functions:
            stack.enter_context(_replaced(owner, name, timeline.wrap(part, getattr(owner, name), then)))
        stack.enter_context(_replaced(lcnn.training.fit, "make_optimizer", marked_optimizer))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _marked_build(timeline: Timeline) -> Build:
    """`build_model`, whose network tells the timeline which of its modules is at work."""

    def build(config: TrainConfig, normalisation: Normalisation) -> nn.Module:
        model = lcnn.network.model.build_model(config, normalisation)
        methods: list[tuple[nn.Module, str, Part, Part | None]] = [
            (model, "forward", Part.OTHER, None),
            (model.alignment, "forward", Part.ALIGNMENT, None),
            (model.local, "forward", Part.ENCODER, None),
            (model.local.attention, "forward", Part.ATTENTION, Part.DECODER),
            (model.local, "draw", Part.DECODER, None),
            (model.global_path, "forward", Part.GLOBAL_PATH, Part.FUSION),
        ]
        for module, name, part, then in methods:
            setattr(module, name, timeline.wrap(part, getattr(module, name), then))
        return model

    return build


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
    marked_ms: float
    """A step by the training's own clock."""
    plain_ms: float
    """A step of the same training without the marks, by its own clock, in the same rounds."""

    @property
    def sum_ms(self) -> float:
        """All parts together."""
        return sum(part.ms for part in self.parts)

    def share(self, *parts: Part) -> float:
        """Share of these parts in the sum of all."""
        return sum(part.ms for part in self.parts if part.part in parts) / self.sum_ms


def take_apart(config: TrainConfig, data: TrainingData, device: str, *, rounds: int, steps: int) -> StepParts:
    """Train by turns with and without marks for ``rounds`` epochs of ``steps`` steps each; medians over the epochs.

    Both trainings are those of `lcnn.training.fit.fit`, validation aside; one epoch more comes first, not counted.
    """
    loop = {"epochs": rounds + 1, "stacks_per_epoch": steps * config.train.batch_size}
    config = config.model_copy(update={"train": config.train.model_copy(update=loop)})
    timeline = Timeline(torch.device(device))
    plain = lcnn.training.fit.fit(config, data, device=device)
    marked = lcnn.training.fit.fit(config, data, device=device, build=_marked_build(timeline))
    plain_s: list[float] = []
    marked_s: list[float] = []
    parts_s: list[Times] = []
    for _ in range(rounds + 1):
        plain_s.append(next(plain).seconds)
        with _marked_training(timeline), timeline.recording() as times:
            marked_s.append(next(marked).seconds)
        parts_s.append(times)
    marked_ms, plain_ms = (1e3 * median(seconds[1:]) / steps for seconds in (marked_s, plain_s))
    return StepParts(_medians(parts_s[1:], steps), marked_ms, plain_ms)


def _medians(epochs: Sequence[Times], steps: int) -> tuple[PartTime, ...]:
    def ms(part: Part, phase: Phase) -> float:
        return 1e3 * median(times[part, phase] for times in epochs) / steps

    return tuple(PartTime(part, ms(part, Phase.FORWARD), ms(part, Phase.BACKWARD)) for part in Part)
