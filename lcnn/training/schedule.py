"""Learning-rate schedules as pure functions of training progress: nothing to save, nothing to lose on resume.

The horizon is the full budget, never the rung of an early-stopping scheduler, so that curves of trials that
were stopped at different rungs can be compared.
"""

import math
from functools import singledispatch

from lcnn.config import CosineRestarts, OneCycle, Polynomial

START_DIVISOR = 25.0
"""A one-cycle warm-up starts at the peak divided by this."""


@singledispatch
def lr_factor(schedule: object, epoch: float, epochs: int) -> float:
    """Learning rate as a share of its peak.

    Args:
        schedule: settings of one of the schedules of `lcnn.config`.
        epoch: epochs trained so far; fractions count.
        epochs: the full budget.
    """
    raise TypeError(f"{type(schedule).__name__} is no schedule")


@lr_factor.register
def _cosine_restarts(schedule: CosineRestarts, epoch: float, epochs: int) -> float:
    start, length = 0, schedule.t0
    while epoch >= start + length:
        start, length = start + length, length * schedule.t_mult
    return (1 + math.cos(math.pi * (epoch - start) / length)) / 2


@lr_factor.register
def _one_cycle(schedule: OneCycle, epoch: float, epochs: int) -> float:
    peak = schedule.warmup * epochs
    if epoch < peak:
        return (1 + (START_DIVISOR - 1) * epoch / peak) / START_DIVISOR
    return (1 + math.cos(math.pi * min(1.0, (epoch - peak) / (epochs - peak)))) / 2


@lr_factor.register
def _polynomial(schedule: Polynomial, epoch: float, epochs: int) -> float:
    return max(0.0, 1 - epoch / epochs) ** schedule.power
