"""A small space, and the study that belongs to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcnn.config import TrainConfig
from search.spec.settings import SamplerConfig
from search.spec.space import SearchSpace
from search.study.ledger import Ledger

RANGES: dict[str, Any] = {
    "T": {"choice": [1, 2, 3]},
    "fusion.local": {"uniform": [0.3, 0.95]},
    "optim.lr": {"log": [1e-4, 1e-2]},
    "schedule": {"choice": {"cosine_restarts": {"t0": {"choice": [5, 10]}, "t_mult": 2}, "polynomial": None}},
}


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
