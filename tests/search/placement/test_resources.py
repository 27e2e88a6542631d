"""How trials share a machine, on machines that need not exist."""

import pytest

from data_prep.common.machine import available_cores
from lcnn.config import TrainConfig
from search.placement.memory import MemoryPlan, MemoryProfile, Placement
from search.placement.resources import (
    ALLOCATOR_SHARE,
    Slots,
    is_placed_by_memory,
    plan_slots,
    slots_by_memory,
    thread_warning,
)
from search.spec.settings import ResourcesConfig

SIDE = 64


def plan(peak_bytes: float, context_bytes: int = 0, pool_bytes: int = 1600) -> MemoryPlan:
    """A space of a single profile."""
    peaks = {MemoryProfile.of(TrainConfig(), SIDE): peak_bytes}
    return MemoryPlan(pool_bytes, context_bytes, SIDE, {}, peaks, 16)


@pytest.mark.parametrize(
    ("settings", "cores", "gpus", "expected"),
    [
        ({}, 2, 0, (2, 1, 0.0)),
        ({"threads": 4}, 2, 0, (1, 4, 0.0)),
        ({"threads": 4}, 16, 0, (4, 4, 0.0)),
        ({"trials_at_once": 3}, 2, 0, (3, 1, 0.0)),
        ({}, 16, 1, (1, 1, 1.0)),
        ({"trials_per_gpu": 4}, 16, 2, (8, 1, 0.25)),
        ({"trials_per_gpu": 1}, 16, 2, (2, 1, 1.0)),
        ({"trials_at_once": 1, "trials_per_gpu": 2}, 16, 2, (1, 1, 0.5)),
        ({"trials_at_once": 8, "trials_per_gpu": 2}, 16, 1, (2, 1, 0.5)),
    ],
)
def test_slots(settings: dict[str, int], cores: int, gpus: int, expected: tuple[int, int, float]) -> None:
    slots = plan_slots(ResourcesConfig(**settings), cores=cores, gpus=gpus)
    assert (slots.at_once, slots.threads, slots.gpu_share) == expected
    assert slots.device == ("cuda" if gpus else "cpu")


@pytest.mark.parametrize(
    ("settings", "cores", "gpus", "by_memory"),
    [({}, 2, 0, True), ({"trials_per_gpu": 4}, 2, 0, True), ({}, 2, 1, True), ({"trials_per_gpu": 4}, 2, 1, False)],
)
def test_a_fixed_number_to_a_gpu_needs_no_weighing(
    settings: dict[str, int], cores: int, gpus: int, by_memory: bool
) -> None:
    config = ResourcesConfig(**settings)
    assert is_placed_by_memory(config, plan_slots(config, cores=cores, gpus=gpus)) == by_memory


@pytest.mark.parametrize(
    ("settings", "cores", "gpus", "peak_bytes", "at_once"),
    [
        ({}, 16, 1, 170, 8),  # 170 with its margin is two sixteenths of 1600
        ({}, 4, 1, 170, 4),
        ({}, 1, 2, 170, 2),  # a GPU is never left idle for want of cores
        ({"threads": 4}, 16, 1, 170, 4),
        ({}, 64, 2, 170, 16),
        ({"trials_at_once": 3}, 16, 1, 170, 3),
        ({"trials_at_once": 12}, 2, 1, 170, 8),
        ({}, 16, 1, 1500, 1),
        ({}, 16, 1, 9000, 1),  # none fits: each will be recorded, one after the other
        ({}, 2, 0, 170, 2),
        ({}, 16, 0, 500, 2),  # memory, not cores
    ],
)
def test_as_many_as_memory_and_cores_allow(
    settings: dict[str, int], cores: int, gpus: int, peak_bytes: float, at_once: int
) -> None:
    config = ResourcesConfig(**settings)
    slots = plan_slots(config, cores=cores, gpus=gpus)
    assert slots_by_memory(config, slots, plan(peak_bytes), cores=cores).at_once == at_once


def test_what_ray_reserves() -> None:
    memory = plan(170)
    assert Slots(2, 3, 0.5, 1, "cuda").demands(0.5) == {"CPU": 3, "GPU": 0.5}
    assert Slots(2, 3, 1.0, 1, "cuda", memory).demands(0.125) == {"CPU": 3, "GPU": 0.125}
    assert Slots(2, 3, 0.0, 0, "cpu").demands(0.0) == {"CPU": 3}
    assert Slots(2, 3, 0.0, 0, "cpu", memory).demands(0.125) == {"CPU": 3, "memory": 200}


def test_the_cap_follows_the_share() -> None:
    assert Slots(2, 1, 0.5, 1, "cuda").allocator_share(0.5) == ALLOCATOR_SHARE * 0.5
    # The context is measured, and is no business of the allocator's.
    assert Slots(2, 1, 1.0, 1, "cuda", plan(400, context_bytes=80)).allocator_share(0.5) == 0.5 - 80 / 1600


def test_without_weights_a_trial_has_its_fixed_share_and_its_own_micro_batches() -> None:
    slots = Slots(2, 1, 0.5, 1, "cuda")
    assert slots.place(TrainConfig()) == Placement(0.5, 1)
    assert slots.place(TrainConfig(), 4) == Placement(0.5, 4)


def test_room_for_one_more() -> None:
    fixed = Slots(4, 1, 0.5, 2, "cuda")
    assert fixed.has_room([0.5] * 3)
    assert not fixed.has_room([0.5] * 4)
    cpu = Slots(2, 1, 0.0, 0, "cpu", plan(170))
    assert cpu.has_room([0.125])
    assert not cpu.has_room([0.125, 0.125])


def test_more_threads_than_cores_are_warned_of() -> None:
    cores = available_cores()
    assert thread_warning(ResourcesConfig(threads=cores)) is None
    warning = thread_warning(ResourcesConfig(threads=64)) or ""
    assert warning.startswith("WARNING: resources.threads = 64, but this process may use ")
    assert warning.endswith(f"set it to {cores} or less")
