"""How trials share a machine, on machines that need not exist."""

import pytest

from search.resources import plan_slots
from search.spec import ResourcesConfig


@pytest.mark.parametrize(
    ("settings", "cores", "gpus", "expected"),
    [
        ({}, 2, 0, (2, 1, 0.0)),
        ({"threads": 4}, 2, 0, (1, 4, 0.0)),
        ({"threads": 4}, 16, 0, (4, 4, 0.0)),
        ({"trials_at_once": 3}, 2, 0, (3, 1, 0.0)),
        ({}, 16, 1, (2, 1, 0.5)),
        ({"trials_per_gpu": 4}, 16, 2, (8, 1, 0.25)),
        ({"trials_per_gpu": 1}, 16, 2, (2, 1, 1.0)),
        ({"trials_at_once": 1}, 16, 2, (1, 1, 0.5)),
        ({"trials_at_once": 8}, 16, 1, (2, 1, 0.5)),
    ],
)
def test_slots(settings: dict[str, int], cores: int, gpus: int, expected: tuple[int, int, float]) -> None:
    slots = plan_slots(ResourcesConfig(**settings), cores=cores, gpus=gpus)
    assert (slots.at_once, slots.threads, slots.gpu_share) == expected
    assert slots.device == ("cuda" if gpus else "cpu")
