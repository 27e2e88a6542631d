"""Normalisation layers by name."""

from collections.abc import Callable, Mapping

from torch import nn

Norm = Callable[[int], nn.Module]
"""Makes the normalisation of a two-dimensional map with so many channels."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with groups of at least four channels: independent of the batch's make-up."""
    groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and channels // g >= 4)
    return nn.GroupNorm(groups, channels)


NORMS: Mapping[str, Norm] = {"batch": nn.BatchNorm2d, "group": group_norm}
