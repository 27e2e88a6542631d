"""How trials share the machine: how many at once, and what each may use."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch

from data_prep.common.machine import available_cores
from data_prep.common.wording import counted
from lcnn.config import TrainConfig
from search.placement.memory import MemoryPlan, Placement
from search.spec.settings import ResourcesConfig

ALLOCATOR_SHARE = 0.9
"""Of a share that nobody measured, what the allocator may have; CUDA's context and cuBLAS's workspaces come on top."""


@dataclass(frozen=True)
class Slots:
    """A plan for running trials side by side."""

    at_once: int
    """Most trials that run at the same time."""
    threads: int
    """CPU threads of each."""
    gpu_share: float
    """Share of one GPU for a training that is not placed by memory; 0 on a machine without."""
    gpus: int
    device: Literal["cpu", "cuda"]
    """Torch device of a trial."""
    memory: MemoryPlan | None = None
    """What trainings take, where they are placed by it."""
    least_share: float = 0.0
    """Share that a training placed by memory gets at least."""

    def place(self, config: TrainConfig, accumulation: int | None = None) -> Placement | None:
        """How a training is fitted onto a pool; see `search.placement.memory.MemoryPlan.place`."""
        if self.memory is not None:
            placement = self.memory.place(config, accumulation)
            return placement and replace(placement, share=max(placement.share, self.least_share))
        return Placement(self.gpu_share, accumulation or config.train.accumulation)

    def demands(self, share: float) -> dict[str, float]:
        """What Ray reserves for a training with this share of a pool."""
        if self.gpus:
            return {"CPU": self.threads, "GPU": share}
        if self.memory is not None:
            return {"CPU": self.threads, "memory": int(share * self.memory.pool_bytes)}
        return {"CPU": self.threads}

    def allocator_share(self, share: float) -> float:
        """Of a GPU's memory, what the allocator of a training with this share of it may take."""
        if self.memory is None:
            return ALLOCATOR_SHARE * share
        return share - self.memory.context_bytes / self.memory.pool_bytes

    def has_room(self, shares: Collection[float]) -> bool:
        """Whether one more trial may fit beside those that run with these shares."""
        if len(shares) >= self.at_once:
            return False
        smallest = max(self.memory.smallest_share, self.least_share) if self.memory else self.gpu_share
        return not self.gpus or sum(shares) + smallest <= self.gpus

    @property
    def ram_bytes(self) -> int | None:
        """Main memory that trials may have; None where it is not shared by measure."""
        return self.memory.pool_bytes if self.memory is not None and not self.gpus else None

    def __str__(self) -> str:
        each = counted(self.threads, "thread")
        if self.memory is not None:
            return f"at most {self.at_once} at once, {each} each, {'GPUs' if self.gpus else 'memory'} shared by measure"
        if self.gpu_share:
            each += f", {self.gpu_share:g} GPU"
        return f"{self.at_once} at once, {each} each"


def plan_slots(config: ResourcesConfig, *, cores: int, gpus: int) -> Slots:
    """Trial slots on a machine with so many cores and GPUs, before memory is measured: then a GPU is for one trial."""
    if gpus:
        per_gpu = config.trials_per_gpu or 1
        at_once = min(config.trials_at_once or gpus * per_gpu, gpus * per_gpu)
        return Slots(at_once, config.threads, 1 / per_gpu, gpus, "cuda")
    return Slots(config.trials_at_once or max(1, cores // config.threads), config.threads, 0.0, 0, "cpu")


def thread_warning(config: ResourcesConfig) -> str | None:
    """That a trial is to have more threads than there are cores, which slows it down; None where it is not."""
    cores = available_cores()
    if config.threads <= cores:
        return None
    return (
        f"WARNING: resources.threads = {config.threads}, but this process may use {counted(cores, 'core')}; threads "
        f"that share a core wait for each other: set it to {cores} or less"
    )


def is_placed_by_memory(config: ResourcesConfig, slots: Slots) -> bool:
    """Whether trials are placed by what they were seen to take, rather than so many to a GPU."""
    return not (slots.gpus and config.trials_per_gpu)


def slots_by_memory(config: ResourcesConfig, slots: Slots, memory: MemoryPlan, *, cores: int) -> Slots:
    """The slots, once it is known what trials take: as many at once as the smallest of them fit, and cores allow.

    Where as many of the largest fit, all trials get its share: a worker goes from trial to trial only where both
    have the same, and another worker takes seconds to start.
    """
    pools = max(1, slots.gpus)
    wanted = config.trials_at_once or max(pools, cores // config.threads)
    most, all_alike = (pools * math.floor(1 / share) for share in (memory.smallest_share, memory.largest_share))
    least = memory.largest_share if wanted <= all_alike else 0.0
    return replace(slots, at_once=min(most, wanted), memory=memory, least_share=least)


def this_machine(config: ResourcesConfig) -> Slots:
    """Trial slots on this machine."""
    gpus = torch.cuda.device_count()
    return plan_slots(config, cores=available_cores(), gpus=gpus if config.gpus is None else min(config.gpus, gpus))
