"""Intervals over patients: what a mean or a share over a few of them is worth.

Scans of one person are not independent, so each person is one observation: the mean of the values of the scans. To draw
persons anew is the bootstrap over clusters (Davison and Hinkley 1997, section 3.8).
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binomtest, bootstrap

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


def by_person(values: Sequence[float], persons: Sequence[Hashable] | None) -> list[float]:
    """One value a person, the mean over the scans that have one, in the order of the persons; NaN values are left out.

    Args:
        values: a value a scan.
        persons: whose each scan is; None: each is of a person of its own.

    Raises:
        ValueError: the two lists differ in length.
    """
    defined: dict[Hashable, list[float]] = defaultdict(list)
    for person, value in zip(range(len(values)) if persons is None else persons, values, strict=True):
        if not math.isnan(value):
            defined[person].append(float(value))
    return [several[0] if len(several) == 1 else math.fsum(several) / len(several) for several in defined.values()]


def estimate_mean(values: Sequence[float], persons: Sequence[Hashable] | None = None, *, seed: int = 0) -> Estimate:
    """Mean and 95% percentile-bootstrap interval over patients (Efron 1979); arguments as of `by_person`."""
    defined = np.array(by_person(values, persons), dtype=float)
    if len(defined) == 0:
        return Estimate(None, None, None, 0)
    if len(defined) == 1:
        return Estimate(float(defined[0]), None, None, 1)
    interval = bootstrap(
        (defined,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(float(defined.mean()), float(interval.low), float(interval.high), len(defined))


def estimate_difference(
    ours: Sequence[float], theirs: Sequence[float], persons: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Estimate:
    """Mean paired difference ours - theirs over the patients for which both are defined; persons as of `by_person`.

    Raises:
        ValueError: the lists differ in length.
    """
    return estimate_mean([a - b for a, b in zip(ours, theirs, strict=True)], persons, seed=seed)


def estimate_share(hits: float, patients: int) -> Estimate:
    """Share of the patients that are hits, with its exact 95% interval (Clopper and Pearson 1934).

    The exact interval is wider than others on few patients; what it promises it holds for any share.

    Args:
        hits: their number. A person of several scans is a hit by the share of them, so it need not be whole: that is
            the exact interval at an effective sample size (Korn and Graubard 1998), which is taken at its smallest, as
            if the scans of a person were fully dependent.
        patients: number of persons.
    """
    if not patients:
        return Estimate(None, None, None, 0)
    low, high = _exact_interval(float(hits), patients)
    return Estimate(hits / patients, low, high, patients)


def _exact_interval(hits: float, patients: int) -> tuple[float, float]:
    if hits.is_integer():
        interval = binomtest(int(hits), patients).proportion_ci(confidence_level=0.95, method="exact")
        return float(interval.low), float(interval.high)
    # The same bounds as quantiles, which are defined between whole hits too.
    return float(beta.ppf(0.025, hits, patients - hits + 1)), float(beta.ppf(0.975, hits + 1, patients - hits))
