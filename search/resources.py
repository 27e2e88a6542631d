"""How trials share the machine: how many at once, and what each may use."""

import os
from dataclasses import dataclass

import torch

from search.spec import ResourcesConfig


@dataclass(frozen=True)
class Slots:
    """A plan for running trials side by side."""

    at_once: int
    threads: int
    """CPU threads of each."""
    gpu_share: float
    """Share of one GPU for each; 0 on a machine without."""
    gpus: int

    @property
    def device(self) -> str:
        """Torch device of a trial."""
        return "cuda" if self.gpu_share else "cpu"

    def __str__(self) -> str:
        each = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        if self.gpu_share:
            each += f", {self.gpu_share:g} GPU"
        return f"{self.at_once} at once, {each} each"


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan_slots(config: ResourcesConfig, *, cores: int, gpus: int) -> Slots:
    """Trial slots on a machine with so many cores and GPUs."""
    if gpus:
        at_once = min(config.trials_at_once or gpus * config.trials_per_gpu, gpus * config.trials_per_gpu)
        return Slots(at_once, config.threads, 1 / config.trials_per_gpu, gpus)
    return Slots(config.trials_at_once or max(1, cores // config.threads), config.threads, 0.0, 0)


def this_machine(config: ResourcesConfig) -> Slots:
    """Trial slots on this machine."""
    gpus = torch.cuda.device_count()
    return plan_slots(config, cores=available_cores(), gpus=gpus if config.gpus is None else min(config.gpus, gpus))
