"""A training step and a validation batch on random pictures: what a trial does all the time, for timing."""

import torch
from torch import nn

from data_prep.cohort.normalisation import Normalisation
from lcnn.config import TrainConfig
from lcnn.network.model import build_model
from lcnn.network.stacks import channels
from lcnn.training.accumulation import forward
from lcnn.training.augment import augment, draw_affine
from lcnn.training.fit import make_optimizer, predict_logits, resolve_precision
from lcnn.training.loss import lcnn_loss


def usual_normalisation(windows: int) -> Normalisation:
    """Near enough to any cohort's: no time and no memory depends on it."""
    return Normalisation(mean=(100.0,) * windows, std=(50.0,) * windows)


class Rehearsal:
    """A network with its optimizer and a batch, as `lcnn.training.fit` has them, without a cohort.

    Args:
        config: the training; its initial weights are not read, for they take the room of any others.
        image_size: side of the pictures in pixels.
        device: where to train.
        windows: intensity windows in which slices come.
    """

    def __init__(self, config: TrainConfig, image_size: int, device: torch.device, windows: int = 1) -> None:
        self._config, self.device = config, device
        self._model = build_model(config.without_initial_weights(), usual_normalisation(windows)).to(device)
        self._optimizer = make_optimizer(self._model, config.optim)
        self._dtype = resolve_precision(config.train.precision, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)
        self._generator = torch.Generator().manual_seed(0)
        shape = (config.train.batch_size, channels(config.T, windows), image_size, image_size)
        self._grey = torch.rand(shape, generator=self._generator).to(device) * 255
        self._lesion = (torch.rand(shape[0], *shape[2:], generator=self._generator) > 0.99).float().to(device)

    def step(self) -> None:
        """One optimizer step, in the order of `lcnn.training.fit`: the former gradients are there until going back."""
        self._model.train()
        train = self._config.train
        matrix = draw_affine(self._config.augment, train.batch_size, self._generator)
        grey, lesion = augment(self._grey, self._lesion, matrix)
        prediction = forward(self._model, grey, self._dtype, train.accumulation)
        loss = lcnn_loss(prediction, lesion, self._config.loss).total
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._model.parameters(), train.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def validate(self) -> None:
        """One batch of validation."""
        self._model.eval()
        with torch.inference_mode():
            predict_logits(self._model, self._grey[: self._config.train.stacks_at_once], self._dtype)
