"""Which parameters mattered: functional ANOVA, and how much of that is chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.report.evidence import Parameter
from search.study.ledger import TrialRecord

FEWEST_TRIALS = 20
"""With fewer, a forest mostly finds what the bootstrap drew."""
MOST_TRIALS = 120
"""Trials of a resample; more would only take longer."""
RESAMPLES = 24
TREES = 16
CHANCE = "chance"
"""Name of a parameter that nothing depends on: what it seems to matter is what chance makes of any."""


@dataclass(frozen=True)
class Importance:
    """Share of the spread of the values that a parameter explains."""

    name: str
    median: float
    low: float
    """5th percentile over the resamples."""
    high: float
    """95th percentile."""


def parameter_importance(trials: Sequence[TrialRecord], parameters: Sequence[Parameter]) -> list[Importance]:
    """Importance of every parameter that all trials have, and of pure chance; the most important first.

    Functional ANOVA (Hutter, Hoos and Leyton-Brown 2014, An Efficient Approach for Assessing Hyperparameter
    Importance), as Optuna has it, of the best validation Dice of every trial that gave one, over bootstrap samples of
    the trials.

    Returns:
        Nothing with fewer than `FEWEST_TRIALS` trials or two parameters, or where all values are equal.
    """
    usable = [trial for trial in trials if trial.is_usable]
    common = [parameter for parameter in parameters if not parameter.conditional]
    if len(usable) < FEWEST_TRIALS or len(common) < 2 or len({trial.best for trial in usable}) < 2:
        return []
    # Imported here: it brings scikit-learn, which every start of the command would wait for.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances  # noqa: PLC0415

    rng = np.random.default_rng(0)
    shares: dict[str, list[float]] = {name: [] for name in (*(p.name for p in common), CHANCE)}
    for resample in range(RESAMPLES):
        drawn = rng.integers(0, len(usable), min(len(usable), MOST_TRIALS))
        study = _study([usable[i] for i in drawn], common, rng)
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=TREES, seed=resample))
        for name, values in shares.items():
            values.append(float(found.get(name, 0.0)))
    ranked = [_summary(name, values) for name, values in shares.items()]
    return sorted(ranked, key=lambda importance: -importance.median)


def _study(trials: Sequence[TrialRecord], parameters: Sequence[Parameter], rng: np.random.Generator) -> optuna.Study:
    """The trials as a study of completed ones with one parameter more, drawn anew."""
    distributions = {p.name: _distribution(p) for p in parameters} | {CHANCE: FloatDistribution(0.0, 1.0)}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for trial in trials:
        params: Mapping[str, Any] = {p.name: trial.params[p.name] for p in parameters} | {CHANCE: float(rng.random())}
        study.add_trial(optuna.trial.create_trial(params=dict(params), distributions=distributions, value=trial.best))
    return study


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _summary(name: str, shares: Sequence[float]) -> Importance:
    low, median, high = np.percentile(shares, [5, 50, 95]).tolist()
    return Importance(name, median, low, high)
