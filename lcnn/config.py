"""Every setting of LCNN and its training, each with its one default, unit and meaning.

The classes hold values only; `lcnn.network.model.build_model`, `lcnn.training.schedule.lr_factor` and
`lcnn.training.fit.fit` turn them into objects. All are frozen and refuse unknown fields.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from data_prep.common.settings import renamed
from data_prep.preprocessing.picture import PictureConfig


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown fields, no silent conversion of text to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _in_order(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"a range is [low, high], not {list(ends)}; swap its ends")
    return ends


Positive = Annotated[float, Field(gt=0)]
Backbone = Literal["resnext50_32x4d", "resnext14_4x2d"]
Format = Literal["torch", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""Graphs that a trained network can be exported to."""
TRAINING = "training"
"""Field of `HoldsTraining`, which no file names."""


class ModelConfig(Settings):
    """The network's fixed size."""

    width: int = Field(32, ge=4, le=256, multiple_of=4)
    """Channels of the local path's first level, at half the resolution; each further level has twice as many."""
    levels: int = Field(4, ge=2, le=6)
    """Levels of the local path; the deepest one is 2**levels times coarser than the input."""
    window_size: int = Field(8, ge=1, le=64)
    """Side of the attention windows at the deepest level, in its pixels."""
    heads: int = Field(4, ge=1, le=16)
    """Attention heads; must divide half of the deepest level's channels."""
    norm: Literal["batch", "group"] = "group"
    """Normalisation of both paths: over groups of channels, or over the batch, which initial weights come with."""
    max_angle_deg: float = Field(25.0, gt=0, le=90)
    """Largest in-plane rotation that the alignment network can undo, in degrees."""
    max_shift: float = Field(0.15, gt=0, le=1)
    """Largest left-right shift that it can undo, as a share of the picture's width."""
    global_backbone: Backbone = "resnext50_32x4d"
    """Encoder of the global path; the small one is for computers without a GPU."""
    weights: str = "none"
    """Start of the global path: ``none``, or with ``norm: batch`` ``imagenet`` (fetched by torchvision) or a path."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, data: Any) -> Any:
        return renamed(data, "window", "window_size") if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _parts_fit(self) -> "ModelConfig":
        attended = self.width * 2 ** (self.levels - 1) // 2
        if attended % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide {attended}, half the channels of the deepest level")
        if self.weights != "none" and self.global_backbone != "resnext50_32x4d":
            raise ValueError(f"weights: {self.weights} is for resnext50_32x4d; set none for {self.global_backbone}")
        if self.weights != "none" and self.norm != "batch":
            raise ValueError(
                f"weights: {self.weights} comes with batch normalisation; set norm: batch, or weights: none"
            )
        return self


class FusionConfig(Settings):
    """How the two paths' logits are mixed."""

    local: float = Field(0.7, ge=0, le=1)
    """Share of the local path (SEAN); the global path has the rest."""


class LossConfig(Settings):
    """Weights of the loss: dice * Dice + (1 - dice) * CE + alignment * symmetry."""

    dice: float = Field(0.5, ge=0, le=1)
    """Share of the Dice loss; cross-entropy has the rest, so the two are one axis."""
    alignment: float = Field(0.1, ge=0)
    """Weight of the symmetry loss of the aligned stack."""
    class_weights: tuple[Positive, Positive] = (0.1, 0.9)
    """Weights of background and lesion pixels in the cross-entropy."""


class OptimConfig(Settings):
    """AdamW."""

    lr: float = Field(1e-3, gt=0, le=1)
    """Peak learning rate."""
    weight_decay: float = Field(1e-2, ge=0)
    """Decoupled weight decay; not applied to biases and normalisation weights."""


class CosineRestarts(Settings):
    """Cosine annealing with warm restarts (Loshchilov and Hutter 2017, SGDR)."""

    name: Literal["cosine_restarts"] = "cosine_restarts"
    t0: int = Field(10, ge=1)
    """Epochs until the first restart."""
    t_mult: int = Field(2, ge=1)
    """Each cycle is this many times as long as the one before."""


class OneCycle(Settings):
    """Linear warm-up to the peak, then cosine to 0 over the full budget (Smith 2018, without momentum)."""

    name: Literal["one_cycle"] = "one_cycle"
    warmup: float = Field(0.3, gt=0, lt=1)
    """Share of the budget that is spent warming up."""


class Polynomial(Settings):
    """(1 - progress) ** power over the full budget."""

    name: Literal["polynomial"] = "polynomial"
    power: float = Field(0.9, gt=0, le=10)
    """Exponent of the decay."""


Schedule = Annotated[CosineRestarts | OneCycle | Polynomial, Field(discriminator="name")]


class AugmentConfig(Settings):
    """Random changes of a stack and its mask, drawn anew for every stack."""

    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a left-right flip."""
    rotation_deg: float = Field(10.0, ge=0, le=180)
    """In-plane rotation, uniform within plus or minus this many degrees."""
    shift: float = Field(0.1, ge=0, le=0.5)
    """Shift along both axes, uniform within plus or minus this share of the side."""
    scale: Annotated[tuple[Positive, Positive], AfterValidator(_in_order)] = (0.9, 1.1)
    """Range of the magnification, uniform."""


class LoopConfig(Settings):
    """The training loop."""

    epochs: int = Field(60, ge=1)
    """Full budget of one training, in epochs; the learning-rate schedule's horizon."""
    batch_size: int = Field(8, ge=1)
    """Stacks a step."""
    accumulation: int = Field(1, ge=1)
    """Micro-batches that a step's stacks are cut into, to fit memory; the step computes the same."""
    stacks_per_epoch: int | None = Field(None, ge=1)
    """Stacks of one epoch; None: as many as it takes to show every lesion slice once."""
    lesion_share: float = Field(0.75, ge=0, le=1)
    """Share of the stacks of an epoch whose centre slice holds lesion."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward pass; auto: bf16 on a GPU that has it, else fp16 there, fp32 on a CPU."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    early_stopping: int = Field(20, ge=1)
    """Epochs without a better validation Dice after which training ends, counted once Dice has left 0."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of weights, order of stacks and augmentation."""

    @property
    def stacks_at_once(self) -> int:
        """Stacks of the largest micro-batch: as many go through the network at a time, in validation too."""
        return -(-self.batch_size // self.accumulation)


class TrainConfig(Settings):
    """All that decides a training besides the cohort: the object that a search varies."""

    T: int = Field(1, ge=0, le=8)
    """Half-width of the slice stack: the network sees 2T + 1 slices around the one it segments."""
    model: ModelConfig = ModelConfig()
    fusion: FusionConfig = FusionConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    schedule: Schedule = CosineRestarts()
    augment: AugmentConfig = AugmentConfig()
    train: LoopConfig = LoopConfig()

    @model_validator(mode="after")
    def _batch_has_statistics(self) -> "TrainConfig":
        if self.model.norm == "batch" and 1 in (self.train.stacks_at_once, self.train.stacks_per_epoch):
            raise ValueError("model.norm: batch needs two stacks at once for its statistics; set norm: group")
        return self

    def without_initial_weights(self) -> "TrainConfig":
        """The same for a network whose weights come from elsewhere: the file of its first ones need not be there."""
        return self.model_copy(update={"model": self.model.model_copy(update={"weights": "none"})})


class HoldsTraining(Settings):
    """Settings of a training and others; in a file, those of the training stand at the top, beside the others."""

    training: TrainConfig = TrainConfig()

    @classmethod
    def gathered(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """A file's values with those of the training in a mapping of their own; the reverse of how these are dumped.

        Not done by a validator, after whose work pydantic no longer takes the values for JSON's, and lists for tuples.
        """
        # A key of this name in a file goes along, and is refused there.
        own = {name: value for name, value in data.items() if name in TrainConfig.model_fields or name == TRAINING}
        return {**{name: value for name, value in data.items() if name not in own}, TRAINING: own}

    @model_serializer(mode="wrap")
    def _flat(self, as_dict: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = as_dict(self)
        return {**data.pop(TRAINING), **data}


class TrainingConfig(HoldsTraining):
    """A training together with the pictures it is made for: what ``best_config.yaml`` holds."""

    picture: PictureConfig = PictureConfig()
