"""TPE over long studies: its cost a proposal grows with the trials it is fitted to, so their number is bounded."""

import json
import warnings
from bisect import insort
from collections.abc import Sequence

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers._tpe.sampler import _RELATIVE_PARAMS_KEY
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.trial import FrozenTrial, TrialState

from search.spec.settings import SamplerConfig

MOST_OBSERVATIONS = 300
"""Trials that TPE is fitted to. Up to so many it sees all, and proposes what Optuna's TPE does.

Beyond, it sees the best, the most recent and the running ones. The best are all that its model of good trials is
made of: Optuna takes the best tenth, at most 25 (`GOOD`). Its model of the others forgets by design: a trial weighs
the less the older it is (linear forgetting; Bergstra, Yamins and Cox 2013, Making a Science of Model Search),
and what is left out are the oldest, with the least weight. The number is what a driver's core fits in 20 ms (python
-m experiments.scale --filled 10000).
"""
GOOD = 25
MOST_RUNNING = 50
"""Of the running ones the newest; with more, less than 250 ended ones would be left, and fewer than 25 good ones."""


class Observations:
    """Which trials TPE sees. Called with every trial as it ends."""

    def __init__(self) -> None:
        self._ranked: list[tuple[float, float, float, int]] = []
        self._ended: list[int] = []
        self._seen: dict[int, _Seen] = {}

    def add(self, trial: FrozenTrial) -> None:
        """Take in a trial that has ended; a failed one is no observation, and one that is known changes nothing."""
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.number not in self._seen:
            insort(self._ranked, (*_rank(trial), trial.number))
            insort(self._ended, trial.number)
            self._seen[trial.number] = _Seen.of(trial)

    def shown(self, running: Sequence[FrozenTrial]) -> list[FrozenTrial] | None:
        """The trials to be seen, by number; None: all that there are.

        Args:
            running: trials that have not ended, by number.
        """
        if len(self._ended) + len(running) <= MOST_OBSERVATIONS:
            return None
        running = [_Seen.of_running(trial) for trial in running[-MOST_RUNNING:]]
        numbers = {number for *_, number in self._ranked[:GOOD]}
        for number in reversed(self._ended):
            if len(numbers) + len(running) >= MOST_OBSERVATIONS:
                break
            numbers.add(number)
        return sorted([*(self._seen[number] for number in numbers), *running], key=lambda t: t.number)


class _Seen(FrozenTrial):
    """A trial with what TPE reads of it, looked up once in place of once for every group of parameters."""

    _constraints: dict[str, float]

    @property
    def constraints(self) -> dict[str, float]:
        """See `FrozenTrial`."""
        return self._constraints

    @classmethod
    def of(cls, trial: FrozenTrial) -> "_Seen":
        """An ended one: of its curve, TPE reads the last epoch."""
        seen = cls.__new__(cls)
        vars(seen).update(vars(trial))
        seen._constraints = trial.constraints
        seen.intermediate_values = dict([max(trial.intermediate_values.items())] if trial.intermediate_values else [])
        return seen

    @classmethod
    def of_running(cls, trial: FrozenTrial) -> "_Seen":
        """A running one: TPE takes the parameters that were drawn for it, whether it turned out to have them or not."""
        seen = cls.__new__(cls)
        vars(seen).update(vars(trial))
        seen._constraints = {}
        drawn: list[str] = []
        while text := trial.system_attrs.get(f"{_RELATIVE_PARAMS_KEY}:{len(drawn)}"):
            drawn.append(text)
        seen.params = {**json.loads("".join(drawn) or "{}"), **trial.params}
        seen.system_attrs = {}
        return seen


def _rank(trial: FrozenTrial) -> tuple[float, float, float]:
    """Optuna's order of ended trials, best first: completed, pruned by epochs reached, those that violate."""
    violation = sum(value for value in trial.constraints.values() if value > 0)
    if violation > 0:
        return (2.0, violation, 0.0)
    if trial.state == TrialState.COMPLETE:
        return (0.0, -float((trial.values or [0.0])[0]), 0.0)
    if not trial.intermediate_values:
        return (1.0, 1.0, 0.0)
    epoch, value = max(trial.intermediate_values.items())
    return (1.0, -float(epoch), -value)


class _Groups:
    """Optuna's partition of the space into parameters that occur together. It adds every trial's set of parameters in
    turn; a set that was added before changes nothing, so here each is added once."""

    def calculate(self, study: optuna.Study, use_cache: bool = False) -> _SearchSpaceGroup:
        groups, known = _SearchSpaceGroup(), set()
        for trial in study._get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED), use_cache=use_cache
        ):
            names = frozenset(trial.distributions)
            if names not in known:
                known.add(names)
                groups.add_distributions(trial.distributions)
        return groups


def build_tpe(config: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    """TPE over all parameters jointly, conditional ones in groups; running trials count as bad ones nearby."""
    with warnings.catch_warnings():
        # Multivariate TPE over conditional groups has been marked experimental for years.
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=config.startup,
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=seed,
        )
    sampler._group_decomposed_search_space = _Groups()  # type: ignore[assignment]
    return sampler
