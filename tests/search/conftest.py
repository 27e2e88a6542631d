"""A search without training: the real study and rules, with curves from a formula instead of a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcnn.config import TrainConfig
from lcnn.fit import EpochResult
from search.ledger import Ledger
from search.space import SearchSpace
from search.spec import SamplerConfig

RANGES: dict[str, Any] = {
    "T": {"choice": [1, 2, 3]},
    "fusion.local": {"uniform": [0.3, 0.95]},
    "optim.lr": {"log": [1e-4, 1e-2]},
    "schedule": {"choice": {"cosine_restarts": {"t0": {"choice": [5, 10]}, "t_mult": 2}, "polynomial": None}},
}


def dice_after(config: TrainConfig, epoch: int) -> float:
    """A curve that rises at a pace and to a height that the settings decide."""
    height = 0.8 - 0.5 * abs(config.fusion.local - 0.6) - 0.05 * config.T - 20 * abs(config.optim.lr - 2e-3)
    return max(0.0, height) * epoch / (epoch + 2)


def epoch_result(epoch: int, value: float, seconds: float = 1.0) -> EpochResult:
    """An epoch with this validation Dice."""
    return EpochResult(epoch, 1.0, 1.0, 1.0, 0.1, value, 1e-3, 0.0, seconds)


@pytest.fixture
def space() -> SearchSpace:
    """A small conditional space."""
    return SearchSpace(RANGES, TrainConfig(), "file")


@pytest.fixture
def open_ledger(tmp_path: Path, space: SearchSpace) -> Callable[..., Ledger]:
    """Opens the same study again and again, as restarted programs do."""

    def open_it(name: str = "study", **sampler: Any) -> Ledger:
        settings = SamplerConfig(**{"startup": 4, **sampler})
        return Ledger(f"sqlite:///{tmp_path / name}.db", "search", space, settings)

    return open_it
