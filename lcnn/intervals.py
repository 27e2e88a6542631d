"""Intervals over patients: what a mean or a share over a few of them is worth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean or share over patients with its 95% interval; NaN values are left out and not counted."""

    mean: float | None
    """None where no patient has a value."""
    low: float | None
    """Bounds; None where there are too few patients for an interval."""
    high: float | None
    patients: int
    """Patients with a value."""

    def text(self, unit: str = "") -> str:
        """Mean, interval and number of patients, for people."""
        if self.mean is None:
            return "undefined"
        ending = f" {unit}" if unit else ""
        if self.low is None or self.high is None:
            return f"{self.mean:.3f}{ending} (one patient, no interval)"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]{ending} (n = {self.patients})"


def estimate_mean(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean and 95% percentile-bootstrap interval over patients (Efron 1979)."""
    defined = np.array([value for value in values if not math.isnan(value)], dtype=float)
    if len(defined) == 0:
        return Estimate(None, None, None, 0)
    if len(defined) == 1:
        return Estimate(float(defined[0]), None, None, 1)
    interval = bootstrap(
        (defined,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(float(defined.mean()), float(interval.low), float(interval.high), len(defined))


def estimate_difference(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean paired difference ours - theirs over the patients for which both are defined.

    Raises:
        ValueError: the two lists differ in length.
    """
    return estimate_mean([a - b for a, b in zip(ours, theirs, strict=True)], seed=seed)


def estimate_share(hits: int, patients: int) -> Estimate:
    """Share of the patients that are hits, with its exact 95% interval (Clopper and Pearson 1934).

    The exact interval is wider than others on few patients; what it promises it holds for any share.
    """
    if not patients:
        return Estimate(None, None, None, 0)
    interval = binomtest(hits, patients).proportion_ci(confidence_level=0.95, method="exact")
    return Estimate(hits / patients, float(interval.low), float(interval.high), patients)
