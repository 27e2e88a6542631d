"""Models compared on the same patients: paired differences, and how likely such ones are by chance."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from scipy.stats import permutation_test

from lcnn.scoring.intervals import Estimate, by_person, estimate_difference

RESAMPLES = 10_000
"""Sign flips that are drawn; up to 13 patients there are fewer in all, and each is counted once: the test is exact."""
P = TypeVar("P", float, float | None)
Figures = Mapping[str, Sequence[float]]
"""A model's values by metric, in the same order of patients for all models."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two models on the same patients."""

    ours: str
    theirs: str
    metric: str
    difference: Estimate
    """Mean of ours minus theirs, with its paired bootstrap interval."""
    p_permutation: float | None
    """Two-sided p of the paired permutation test; None without a patient for whom both are defined."""
    p_holm: float | None
    """The same, corrected for all comparisons of this metric that were made together."""


def compare_models(figures: Mapping[str, Figures], persons: Sequence[Hashable] | None = None) -> list[Comparison]:
    """The first model compared with each of the others, in every metric.

    Holm's correction runs over the models within a metric. Dice is the metric by which a model is judged; the others
    describe it, and a small p among them is no finding of its own.

    Args:
        figures: values of every model, by its name; all models have the same metrics.
        persons: whose scan each value is of, as of `lcnn.scoring.intervals.by_person`.
    """
    ours, *others = figures
    comparisons: list[Comparison] = []
    for metric in figures[ours]:
        found = [_compare(figures, ours, theirs, metric, persons) for theirs in others]
        corrected = holm([comparison.p_permutation for comparison in found])
        comparisons += [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]
    return comparisons


def _compare(
    figures: Mapping[str, Figures], ours: str, theirs: str, metric: str, persons: Sequence[Hashable] | None
) -> Comparison:
    values = figures[ours][metric], figures[theirs][metric], persons
    return Comparison(ours, theirs, metric, estimate_difference(*values), permutation_p(*values), None)


def permutation_p(
    ours: Sequence[float], theirs: Sequence[float], persons: Sequence[Hashable] | None = None, *, seed: int = 0
) -> float | None:
    """Two-sided p of the mean paired difference when it is left to chance whose value is whose (Fisher 1935).

    Pairs with a NaN are left out; None where no pair is left. Of a person of several scans, all pairs change places
    together, by their mean difference; persons as of `lcnn.scoring.intervals.by_person`.

    Raises:
        ValueError: the lists differ in length.
    """
    difference = np.array(by_person([a - b for a, b in zip(ours, theirs, strict=True)], persons))
    if not len(difference):
        return None
    if len(difference) == 1 or not difference.any():
        return 1.0

    def mean(flipped: Any, axis: int) -> Any:
        return np.mean(flipped, axis=axis)

    # With one sample of differences, scipy's pairings are exactly the flips of their signs.
    found = permutation_test(
        (difference,),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[P]) -> list[P]:
    """p values corrected for being several (Holm 1979); None stays None and is not counted."""
    ranked = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected = list(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(ranked):
        largest = max(largest, min(1.0, p * (len(ranked) - rank)))
        corrected[i] = largest
    return corrected
