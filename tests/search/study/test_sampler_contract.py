"""Optuna's own contract of samplers, held by ours.

The suite of relative sampling is left out: it asks for points of any space, and ours draws from that of the space file.
So is the one of several objectives, whose trials have two values: our second objective is kept beside the first.
"""

from collections.abc import Callable
from typing import Any

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase

from lcnn.config import TrainConfig
from search.spec.settings import SamplerConfig
from search.spec.space import SearchSpace
from search.study.sampling.samplers import CANDIDATES, TakenPoints, build_sampler

RANGES: dict[str, Any] = {"T": {"int": [1, 3]}, "optim.lr": {"log": [1e-5, 1e-2]}}


class TestPointSampler(BasicSamplerTestCase):
    """Every case that Optuna ships, for every sampler that a space file can name."""

    @pytest.fixture(
        params=[name if name == "tpe" else pytest.param(name, marks=pytest.mark.deep) for name in CANDIDATES]
    )
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        space = SearchSpace(RANGES, TrainConfig(), "file")
        return lambda: build_sampler(SamplerConfig(name=request.param, startup=2), space, TakenPoints())
