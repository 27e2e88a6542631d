"""Patient-bootstrap intervals: what a mean over a few patients is worth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over patients with its 95% interval; NaN values are left out and not counted."""

    mean: float | None
    """None where no patient has a value."""
    low: float | None
    """Bounds of the percentile bootstrap over patients; None with fewer than two values."""
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
