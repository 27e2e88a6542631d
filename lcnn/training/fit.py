"""Training: a generator that yields one result an epoch and returns how it ended.

    outcome = yield from fit(config, data, folder=folder)      # or: for result in fit(...): ...

Whoever iterates decides; a training is stopped by no longer iterating. With a folder, every epoch is kept
there before it is yielded, and a later call with the same folder yields the epochs that are already done from
its record and trains on from there, exactly as if it had never been interrupted.

Legend: B stacks, D slices of a stack, S side.
"""

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.cohort.normalisation import Normalisation
from data_prep.cohort.store import Store
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import table_text, write_text_atomically
from lcnn.checkpoint import checkpoint_config, load_checkpoint, save_checkpoint
from lcnn.config import OptimConfig, TrainConfig
from lcnn.metrics import Counts, mean_defined
from lcnn.network.model import build_model
from lcnn.network.stacks import LesionAwareSampler, StackSource
from lcnn.outcome import Outcome
from lcnn.training.accumulation import forward
from lcnn.training.augment import augment, draw_affine, move
from lcnn.training.loss import lcnn_loss
from lcnn.training.schedule import lr_factor

LEARNING = 0.01
"""Validation Dice above which a training has left 0; before that, standing still is no reason to stop."""
OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
Build = Callable[[TrainConfig, Normalisation], nn.Module]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainingData:
    """What a training may see. There is no field for test patients."""

    store: Store
    train: Sequence[str]
    val: Sequence[str]
    """Patients to validate on after every epoch; none for a final training."""
    normalisation: Normalisation


@dataclass(frozen=True)
class EpochResult:
    """One epoch's figures; losses are means over its steps."""

    epoch: int
    """1 for the first."""
    loss: float
    dice_loss: float
    cross_entropy: float
    alignment_loss: float
    val_dice: float | None
    """Mean Dice of the validation patients with lesion, at the stored size; None where there are none."""
    lr: float
    """Learning rate of the last step."""
    angle_deg: float
    """Mean absolute in-plane angle that the alignment found, in degrees."""
    seconds: float
    """Wall-clock time of the epoch with its validation."""


@dataclass
class _Sums:
    """Running sums over the steps of an epoch."""

    steps: int = 0
    values: list[float] = field(default_factory=lambda: [0.0] * 5)

    def add(self, *values: float) -> None:
        self.steps += 1
        self.values = [total + value for total, value in zip(self.values, values, strict=True)]

    def means(self) -> list[float]:
        return [value / self.steps for value in self.values]


class _Diverged(Exception):
    """A step met NaN or infinity; private to this file, where it becomes an outcome."""


def fit(
    config: TrainConfig,
    data: TrainingData,
    *,
    device: str = "cpu",
    folder: Path | None = None,
    epochs: int | None = None,
    build: Build = build_model,
) -> Generator[EpochResult, None, Outcome]:
    """Train a network; yield every epoch's result from the first on; return the outcome.

    Args:
        config: all settings of the training.
        data: the cohort's store and the patients to train and validate on.
        device: a torch device.
        folder: where to keep ``last.pt``, ``best.pt`` (the epoch of best validation Dice) and ``history.csv``.
        epochs: stop after this many epochs; the schedule's horizon stays ``config.train.epochs``.
        build: makes the network; another one than LCNN must answer with a `lcnn.network.model.Prediction` too.

    Raises:
        InputError: the folder's checkpoint belongs to another configuration or is damaged.
    """
    try:
        training = _Training(config, data, torch.device(device), build)
        history = training.resume(folder) if folder else []
        most = config.train.epochs if epochs is None else epochs
        yield from history[:most]
        while not is_finished(history, most, config.train.early_stopping):
            result = training.run_epoch(len(history) + 1)
            history.append(result)
            if folder:
                training.keep(folder, history)
            yield result
    except _Diverged:
        return Outcome.DIVERGED
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Outcome.INFEASIBLE
    return Outcome.COMPLETED


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; the CPU's allocator and CUDA's libraries have no exception of their own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def is_finished(history: Sequence[EpochResult], epochs: int, patience: int) -> bool:
    """Whether a training has all its epochs, or none of the last ``patience`` was better than one before."""
    if len(history) >= epochs:
        return True
    curve = [result.val_dice or 0.0 for result in history]
    if not curve or max(curve) < LEARNING:
        return False
    return len(curve) - 1 - curve.index(max(curve)) >= patience


class _Training:
    """The state of one training between two epochs."""

    def __init__(self, config: TrainConfig, data: TrainingData, device: torch.device, build: Build) -> None:
        self.config, self.data, self.device = config, data, device
        torch.manual_seed(config.train.seed)
        self.model = build(config, data.normalisation).to(device)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.dtype = resolve_precision(config.train.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.source = StackSource(data.store, data.train, config.T)
        self.sampler = LesionAwareSampler(
            self.source.has_lesion(),
            lesion_share=config.train.lesion_share,
            stacks=config.train.stacks_per_epoch,
        )
        self.val_source = StackSource(data.store, data.val, config.T) if data.val else None

    def run_epoch(self, epoch: int) -> EpochResult:
        started = time.perf_counter()
        # All chance of an epoch comes from its own seed: a resumed training needs no generator states.
        seed = np.random.SeedSequence([self.config.train.seed, epoch])
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
        positions = self.sampler.epoch(rng)
        batches = np.array_split(positions, math.ceil(len(positions) / self.config.train.batch_size))
        sums = _Sums()
        self.model.train()
        for step, batch in enumerate(batches):
            progress = epoch - 1 + step / len(batches)
            lr = self.config.optim.lr * lr_factor(self.config.schedule, progress, self.config.train.epochs)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            sums.add(*self._step(batch, generator))
        loss, dice, cross_entropy, alignment, angle = sums.means()
        val_dice = self._validate() if self.val_source else None
        return EpochResult(
            epoch=epoch,
            loss=loss,
            dice_loss=dice,
            cross_entropy=cross_entropy,
            alignment_loss=alignment,
            val_dice=val_dice,
            lr=lr,
            angle_deg=angle,
            seconds=time.perf_counter() - started,
        )

    def _step(self, positions: np.ndarray, generator: torch.Generator) -> tuple[float, ...]:
        """One optimizer step; the loss, its three parts and the mean absolute angle in degrees."""
        grey, lesion = self._read(positions)
        matrix = draw_affine(self.config.augment, len(positions), generator)
        grey, lesion = augment(grey, lesion / 255, matrix)
        ignored = self._ignored(positions, matrix)
        prediction = forward(self.model, grey, self.dtype, self.config.train.accumulation)
        loss = lcnn_loss(prediction, lesion, self.config.loss, ignored)
        if not math.isfinite(loss.total.item()):
            raise _Diverged
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss.total).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        # A gradient scaler meets infinity by design and skips that step; without one it means the end.
        if not self.scaler.is_enabled() and not math.isfinite(norm.item()):
            raise _Diverged
        self.scaler.step(self.optimizer)
        self.scaler.update()
        angle = math.degrees(prediction.pose.angle_rad_B.detach().abs().mean().item())
        return (*(part.item() for part in loss), angle)

    def _read(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Stacks and masks of a batch, on the device in float32."""
        grey, lesion = self.source.batch(positions)
        return grey.to(self.device, non_blocking=True).float(), lesion.to(self.device, non_blocking=True).float()

    def _ignored(self, positions: np.ndarray, matrix_B23: Tensor) -> Tensor | None:
        """Share (B, S, S) of each pixel that is ignored, moved as the stacks are; None where the cohort has none."""
        ignored = self.source.ignored(positions)
        if ignored is None:
            return None
        return move(ignored.to(self.device, non_blocking=True).float().unsqueeze(1) / 255, matrix_B23).squeeze(1)

    def _validate(self) -> float | None:
        assert self.val_source is not None
        counts = count_patients(
            self.model,
            self.val_source,
            len(self.data.val),
            batch_size=self.config.train.stacks_at_once,
            dtype=self.dtype,
        )
        dice = mean_defined([patient.dice for patient in counts])
        return None if math.isnan(dice) else dice

    def keep(self, folder: Path, history: Sequence[EpochResult]) -> None:
        state = {
            "config": self.config.model_dump_json(),
            "picture": self.data.store.picture.model_dump(),
            "windows": [window.model_dump() for window in self.data.store.windows],
            "history": [asdict(result) for result in history],
            "model": self.model.state_dict(),
        }
        dice = history[-1].val_dice
        # The first of equal epochs is the best one, here as wherever a best epoch is named.
        before = [result.val_dice for result in history[:-1] if result.val_dice is not None]
        if dice is not None and dice > max(before, default=-1.0):
            save_checkpoint(folder / "best.pt", state)
        resumable = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        save_checkpoint(folder / "last.pt", {**state, **resumable})
        write_text_atomically(folder / "history.csv", history_csv(history))

    def resume(self, folder: Path) -> list[EpochResult]:
        path = folder / "last.pt"
        if not path.exists():
            return []
        state = load_checkpoint(path)
        if checkpoint_config(state, path) != self.config:
            raise InputError(f"{path}: belongs to another configuration; use an empty folder")
        try:
            self.model.load_state_dict(state["model"])
        except (KeyError, RuntimeError) as error:
            # Running out of memory and a broken GPU are RuntimeErrors too, and say nothing about the file.
            if isinstance(error, RuntimeError) and not str(error).startswith("Error(s) in loading"):
                raise
            raise InputError(f"{path}: cannot be resumed from ({first_line(error)}); delete it") from error
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            history = [EpochResult(**entry) for entry in state["history"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: cannot be resumed from ({first_line(error)}); delete it") from error
        write_text_atomically(folder / "history.csv", history_csv(history))
        return history


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); biases, norms and other vectors are not decayed."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    # Fused: one pass over all weights a step; the loop over them took five times as long on a CPU.
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The arithmetic that ``auto`` means on this device, or the one that is named."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


@torch.inference_mode()
def count_patients(
    model: nn.Module, source: StackSource, patients: int, *, batch_size: int, dtype: torch.dtype
) -> list[Counts]:
    """Counts of every patient of ``source`` over all its slices, at the stored size, without what is ignored."""
    model.eval()
    device = next(model.parameters()).device
    totals = torch.zeros(patients, 3, dtype=torch.float64)
    for positions in source.in_order(batch_size):
        grey, lesion = source.batch(positions)
        predicted = predict_logits(model, grey.to(device), dtype) > 0
        true = lesion.to(device) > 127
        if (ignored := source.ignored(positions)) is not None:
            true, scored = _scored(lesion.to(device), ignored.to(device))
            predicted = predicted & scored
        counts = torch.stack([m.sum(dim=(1, 2)) for m in (predicted & true, predicted, true)], dim=1)
        totals.index_add_(0, torch.from_numpy(source.owner[positions]), counts.cpu().double())
    return [Counts(*row) for row in totals.tolist()]


def _scored(lesion_BSS: Tensor, ignored_BSS: Tensor) -> tuple[Tensor, Tensor]:
    """Which pixels are lesion, and which count, by shares 0..255: those of which at most half is ignored.

    Of these, lesion are those of which it is at least half of the rest, which is what the loss compares with.
    """
    scored = ignored_BSS <= 127
    return scored & (2 * lesion_BSS.int() + ignored_BSS.int() > 255), scored


def predict_logits(model: nn.Module, grey_BDSS: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits (B, S, S) in float32 of uint8 stacks that lie on the model's device."""
    return forward(model, grey_BDSS.float(), dtype).logits_BHW.float()


def history_csv(history: Sequence[EpochResult]) -> str:
    """The history as CSV text, a row an epoch."""
    return table_text(EpochResult, history)
