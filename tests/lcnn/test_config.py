"""The settings: defaults, refusals at the bounds, and a faithful way through JSON."""

import pytest
from pydantic import ValidationError

from lcnn.config import (
    AugmentConfig,
    CosineRestarts,
    FusionConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OneCycle,
    OptimConfig,
    Polynomial,
    TrainConfig,
)


def test_the_defaults_are_those_of_trial_zero():
    config = TrainConfig()
    assert (config.T, config.fusion.local) == (1, 0.7)
    assert (config.loss.dice, config.loss.alignment) == (0.5, 0.1)
    assert config.optim.lr == 1e-3
    assert config.schedule == CosineRestarts(t0=10, t_mult=2)


@pytest.mark.parametrize("schedule", [CosineRestarts(t0=3), OneCycle(warmup=0.123456789), Polynomial(power=1 / 3)])
def test_json_keeps_every_value(schedule):
    config = TrainConfig(T=2, schedule=schedule, optim=OptimConfig(lr=0.1 + 0.2), augment=AugmentConfig(scale=(0.8, 1)))
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("settings", "field", "good", "bad"),
    [
        (TrainConfig, "T", 0, -1),
        (TrainConfig, "T", 8, 9),
        (ModelConfig, "width", 4, 0),
        (ModelConfig, "width", 8, 6),
        (ModelConfig, "levels", 2, 1),
        (ModelConfig, "window_size", 1, 0),
        (ModelConfig, "heads", 1, 0),
        (ModelConfig, "max_angle_deg", 90.0, 0.0),
        (ModelConfig, "max_shift", 0.1, 0.0),
        (ModelConfig, "global_backbone", "resnext14_4x2d", "resnet18"),
        (FusionConfig, "local", 0.0, -0.1),
        (FusionConfig, "local", 1.0, 1.1),
        (LossConfig, "dice", 1.0, 1.1),
        (LossConfig, "alignment", 0.0, -0.1),
        (OptimConfig, "lr", 1.0, 0.0),
        (OptimConfig, "lr", 1e-9, 1.1),
        (OptimConfig, "weight_decay", 0.0, -1e-9),
        (CosineRestarts, "t0", 1, 0),
        (CosineRestarts, "t_mult", 1, 0),
        (OneCycle, "warmup", 0.01, 0.0),
        (OneCycle, "warmup", 0.99, 1.0),
        (Polynomial, "power", 10.0, 0.0),
        (AugmentConfig, "flip", 1.0, 1.1),
        (AugmentConfig, "rotation_deg", 180.0, -1.0),
        (AugmentConfig, "shift", 0.5, 0.6),
        (LoopConfig, "epochs", 1, 0),
        (LoopConfig, "batch_size", 1, 0),
        (LoopConfig, "accumulation", 1, 0),
        (LoopConfig, "stacks_per_epoch", None, 0),
        (LoopConfig, "lesion_share", 0.0, -0.1),
        (LoopConfig, "precision", "bf16", "fp64"),
        (LoopConfig, "clip_norm", 0.1, 0.0),
        (LoopConfig, "early_stopping", 1, 0),
        (LoopConfig, "seed", 0, -1),
    ],
)
def test_values_outside_the_bounds_are_refused(settings, field, good, bad):
    assert getattr(settings(**{field: good}), field) == good
    with pytest.raises(ValidationError, match=field):
        settings(**{field: bad})


@pytest.mark.parametrize(
    ("settings", "field", "bad"),
    [
        (LossConfig, "class_weights", (-0.1, 0.9)),
        (LossConfig, "class_weights", (0.0, 0.9)),
        (AugmentConfig, "scale", (0.0, 1.0)),
        (AugmentConfig, "scale", (1.2, 0.8)),
        (LossConfig, "alignment", float("inf")),
    ],
)
def test_pairs_and_infinities_outside_the_bounds_are_refused(settings, field, bad):
    with pytest.raises(ValidationError, match=field):
        settings(**{field: bad})


@pytest.mark.parametrize(
    "fields",
    [
        {"optim": {"learning_rate": 0.1}},
        {"depth": 3},
        {"optim": {"lr": "1e-3"}},
        {"T": "1"},
        {"T": 1.5},
        {"T": True},
        {"schedule": {"name": "step"}},
        {"schedule": {"name": "polynomial", "t0": 3}},
    ],
)
def test_unknown_fields_and_text_for_numbers_are_refused(fields):
    with pytest.raises(ValidationError):
        TrainConfig.model_validate(fields)


def test_settings_cannot_be_changed_in_place():
    config = TrainConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.T = 2
    with pytest.raises(ValidationError, match="frozen"):
        config.optim.lr = 0.1


@pytest.mark.parametrize(("batch", "cut", "at_once"), [(8, 1, 8), (8, 2, 4), (8, 3, 3), (5, 4, 2), (2, 9, 1)])
def test_the_largest_micro_batch_is_what_goes_through_at_once(batch, cut, at_once):
    assert LoopConfig(batch_size=batch, accumulation=cut).stacks_at_once == at_once
