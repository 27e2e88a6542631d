"""Who proposes: whole points of a space, each drawn from its own stream and none of them twice.

    sampler  pruned trials                trials that cannot     conditional parameters    words and switches
                                          be trained
    tpe      below all that completed,    below all that ran     modelled by group         modelled
             the longest first
    cmaes    scaled up to a full          below all that ran     as tpe, one at a time     as tpe, one at a time
             training
    gp       scaled up to a full          below all that ran     as tpe, one at a time     modelled
             training
    random   -                            -                      drawn under their option  drawn
    grid     -                            -                      varied under their option all

CMA-ES and the Gaussian process know neither pruned trials nor constraints by themselves: of a search that stops
most trials early they would learn next to nothing, and would come back to a region that diverges for ever. Both
are therefore shown the trials as `_as_completed` puts them. CMA-ES counts whole numbers as real ones and rounds;
a choice of numbers is to it, as to TPE, a list of words: write {int: [1, 3]} where their order matters.

With a second objective (`search.study.objectives.pareto`), TPE and the Gaussian process are shown every trial as
completed with two values, Dice and cost, and propose for the front of both: TPE as of Ozaki et al. 2022 (Multiobjective
Tree-Structured Parzen Estimator), the Gaussian process by expected hypervolume improvement. CMA-ES cannot.

A point that runs or has run is not proposed again, for its training would give the same result. It is drawn anew,
a few times by the sampler and then at random, and in a finite space taken from what is left. Nothing of that is
seen in the study. A crashed trial has no result, so that its point may come again.
"""

import copy
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.spec.settings import SamplerConfig
from search.spec.space import Key, Params, Range, SearchSpace, Value, point_key
from search.study.objectives.front import undominated
from search.study.sampling.tpe import GOOD, MOST_OBSERVATIONS, build_tpe

TrialCost = Callable[[FrozenTrial], float | None]
"""What a trial takes, less being better; None where it is not known."""

REDRAWS = 2
"""Times that a sampler may draw again where its point has run before; each costs the Gaussian process another fit."""
RANDOM_REDRAWS = 20
"""Random draws after that, before a finite space is gone through."""


@dataclass(frozen=True)
class SamplingContext:
    """A trial that needs a point."""

    study: optuna.Study
    trial: FrozenTrial
    config: SamplerConfig
    space: SearchSpace
    cost: "TrialCost | None" = None

    def seed(self, attempt: int) -> int:
        """The same for the same trial and attempt in every session."""
        # The factor of attempts is 2**32 over the golden ratio: no attempt meets the stream of a near trial.
        return (self.config.seed * 1_000_003 + self.trial.number + attempt * 2_654_435_769) % 2**32


class TakenPoints:
    """The points that run or have run. Called with every trial that changes; a crashed one gives its point back."""

    def __init__(self) -> None:
        self._keys: dict[int, Key] = {}
        self._counts: Counter[Key] = Counter()

    def __len__(self) -> int:
        """How many trials hold a point."""
        return len(self._keys)

    def update(self, trial: FrozenTrial) -> None:
        """Take in a trial as it now stands."""
        before = self._keys.pop(trial.number, None)
        if before is not None:
            self._counts[before] -= 1
        if trial.state not in (TrialState.FAIL, TrialState.WAITING):
            key = self._keys[trial.number] = point_key(trial.params)
            self._counts[key] += 1

    def holds(self, point: Params, but: int | None = None) -> bool:
        """Whether a trial has this point; ``but`` the one of that number."""
        key = point_key(point)
        own = but is not None and self._keys.get(but) == key
        return self._counts[key] > own


class PointSampler(BaseSampler):
    """Proposes the points of the sampler that a space file names; an ordinary sampler to Optuna.

    It holds no state: everything it needs is in the study and in the number of the trial, so that a search which
    was killed proposes what it would have.

    Args:
        config: the sampler's name and settings.
        space: the space to draw from.
        taken: the points that run or have run.
        cost: the second objective; None: the trials' value is the only one.
    """

    def __init__(
        self, config: SamplerConfig, space: SearchSpace, taken: TakenPoints, cost: TrialCost | None = None
    ) -> None:
        self._config, self._space, self._taken, self._cost = config, space, taken, cost

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters: a point is drawn as a whole."""
        return {searched.name: searched.distribution for searched in self._space.ranges()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The first candidate that neither runs nor has run; the last one where all do."""
        point: Params = {}
        for point in CANDIDATES[self._config.name](
            SamplingContext(study, trial, self._config, self._space, self._cost)
        ):
            if not self._taken.holds(point, but=trial.number):
                break
        return point

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for a trial whose other parameters were given from outside or drawn before a restart."""
        seed = SamplingContext(study, trial, self._config, self._space).seed(0)
        return RandomSampler(seed=seed).sample_independent(study, trial, param_name, param_distribution)


def build_sampler(
    config: SamplerConfig, space: SearchSpace, taken: TakenPoints, cost: TrialCost | None = None
) -> BaseSampler:
    """The sampler that a space file names."""
    return PointSampler(config, space, taken, cost)


def is_exhausted(config: SamplerConfig, space: SearchSpace, taken: TakenPoints) -> bool:
    """Whether every point that the sampler can reach runs or has run; never where a range of reals is sampled."""
    values = values_within_reach(config, space)
    if values is None or len(taken) < space.size(values):
        return False  # spares going through a large space before every trial
    return all(taken.holds(point) for point in space.points(values))


def values_within_reach(config: SamplerConfig, space: SearchSpace) -> Callable[[Range], Sequence[Value]] | None:
    """The values of each range whose points are all that the sampler can reach; None where they are endless."""
    if config.name == "grid":
        return partial(Range.grid_values, points=config.points)
    return Range.edge_values if space.is_finite else None


# --- candidates, best first -------------------------------------------------------------------------------------


def _sampled(
    make: Callable[[SamplingContext, int], BaseSampler], sampling_context: SamplingContext
) -> Iterator[Params]:
    """Points of an Optuna sampler, then random ones, then, of a finite space, all."""
    for attempt in range(REDRAWS + 1):
        yield _draw(make(sampling_context, sampling_context.seed(attempt)), sampling_context)
    for attempt in range(REDRAWS + 1, REDRAWS + 1 + RANDOM_REDRAWS):
        yield _draw(RandomSampler(seed=sampling_context.seed(attempt)), sampling_context)
    if sampling_context.space.is_finite:
        yield from sampling_context.space.points()


def _gridded(sampling_context: SamplingContext) -> Iterator[Params]:
    """The grid in its order: first what was never tried, then also what crashed."""
    values = partial(Range.grid_values, points=sampling_context.config.points)
    others = (t for t in sampling_context.study.get_trials(deepcopy=False) if t.number != sampling_context.trial.number)
    tried = {point_key(t.params) for t in others}
    yield from (point for point in sampling_context.space.points(values) if point_key(point) not in tried)
    yield from sampling_context.space.points(values)


def _draw(sampler: BaseSampler, sampling_context: SamplingContext) -> Params:
    """A point from an Optuna sampler: together what it draws together, the rest one at a time."""
    study, trial = sampling_context.study, sampling_context.trial
    if sampling_context.cost is not None and isinstance(sampler, TPESampler | GPSampler):
        study = _PricedStudy(study, trial.number, sampling_context.cost)
    elif isinstance(sampler, CmaEsSampler | GPSampler):
        study = _CompletedStudy(study, trial.number)
    joint = sampler.infer_relative_search_space(study, trial)
    drawn = sampler.sample_relative(study, trial, joint)

    def choose(searched: Range) -> Value:
        d = searched.distribution
        if isinstance(d, CategoricalDistribution) and d.single():
            return d.choices[0]
        if searched.name in drawn and searched.holds(drawn[searched.name]):
            return drawn[searched.name]
        value: Value = sampler.sample_independent(study, trial, searched.name, d)
        return value

    return sampling_context.space.walk(choose)


# --- Optuna's samplers --------------------------------------------------------------------------------------------


def _tpe(sampling_context: SamplingContext, seed: int) -> BaseSampler:
    return build_tpe(sampling_context.config, seed)


def _random(sampling_context: SamplingContext, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _cmaes(sampling_context: SamplingContext, seed: int) -> BaseSampler:
    return CmaEsSampler(
        n_startup_trials=sampling_context.config.startup,
        independent_sampler=_one_at_a_time(sampling_context, seed),
        warn_independent_sampling=False,
        seed=seed,
    )


def _gp(sampling_context: SamplingContext, seed: int) -> BaseSampler:
    return GPSampler(
        n_startup_trials=sampling_context.config.startup,
        independent_sampler=_one_at_a_time(sampling_context, seed),
        warn_independent_sampling=False,
        seed=seed,
    )


def _one_at_a_time(sampling_context: SamplingContext, seed: int) -> BaseSampler:
    """For the parameters that CMA-ES and the Gaussian process cannot model; random ones would be noise to them."""
    return TPESampler(n_startup_trials=sampling_context.config.startup, multivariate=False, seed=seed)


CANDIDATES: Mapping[str, Callable[[SamplingContext], Iterator[Params]]] = {
    "tpe": partial(_sampled, _tpe),
    "random": partial(_sampled, _random),
    "cmaes": partial(_sampled, _cmaes),
    "gp": partial(_sampled, _gp),
    "grid": _gridded,
}


# --- what samplers see that know completed trials only ----------------------------------------------------------


class _CompletedStudy(optuna.Study):
    """A study seen by samplers that learn from completed trials only.

    The trial that is being drawn is hidden: a kill between two of its parameters leaves it half drawn, and the
    Gaussian process would take that for one more running trial.
    """

    def __init__(self, study: optuna.Study, number: int) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        others = [trial for trial in study.get_trials(deepcopy=False) if trial.number != number]
        self._shown = _as_completed(self._select(others))

    def _select(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Those that are shown."""
        return trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


class _PricedStudy(_CompletedStudy):
    """A study of two objectives: the value is to rise, the cost to fall.

    Of a long study it shows the newest trials and those that no other beats in both, for what a sampler takes for a
    proposal grows with the trials that it sees.
    """

    def __init__(self, study: optuna.Study, number: int, cost: TrialCost) -> None:
        self._cost = cost
        super().__init__(study, number)
        self._directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
        prices = {trial.number: cost(trial) for trial in self._shown if trial.state == TrialState.COMPLETE}
        most_expensive = max((price for price in prices.values() if price is not None), default=1.0)
        for position, trial in enumerate(self._shown):
            if trial.state == TrialState.COMPLETE:
                price = prices[trial.number]
                # What could not be trained has no cost; it is to look no better for that.
                values = [*(trial.values or []), most_expensive if price is None else price]
                self._shown[position] = _completed_with(values, trial)

    def _select(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        if len(ended) <= MOST_OBSERVATIONS:
            return trials
        front = undominated(
            (trial.value, price, trial)
            for trial in ended
            if trial.value is not None and (price := self._cost(trial)) is not None
        )
        shown = {trial.number: trial for trial in front[:GOOD]}
        newest = [trial for trial in ended if trial.number not in shown]
        shown |= {trial.number: trial for trial in newest[len(shown) - MOST_OBSERVATIONS :]}
        shown |= {trial.number: trial for trial in trials if trial.state == TrialState.RUNNING}
        return [shown[number] for number in sorted(shown)]


def _as_completed(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Pruned trials with the value that a full training might have had, untrainable ones below all others."""
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    values = {
        trial.number: _full_value(trial, completed)
        for trial in trials
        if trial.state == TrialState.COMPLETE
        or (trial.state == TrialState.PRUNED and _is_trainable(trial) and trial.intermediate_values)
    }
    low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
    # As far below the worst as that is below the best: clear to a model, yet no outlier that flattens the rest.
    untrainable = low - ((high - low) or 1.0)
    shown = []
    for trial in trials:
        if trial.state == TrialState.PRUNED and (trial.number in values or not _is_trainable(trial)):
            shown.append(_completed_with([values.get(trial.number, untrainable)], trial))
        else:
            shown.append(trial)
    return shown


def _completed_with(values: list[float], trial: FrozenTrial) -> FrozenTrial:
    """A copy of the trial, completed with these values, which take the place of its constraints."""
    shown = copy.copy(trial)
    shown.state, shown.values = TrialState.COMPLETE, values
    shown.system_attrs = {k: v for k, v in trial.system_attrs.items() if not k.startswith("constraints")}
    return shown


def _is_trainable(trial: FrozenTrial) -> bool:
    """Whether nothing is known against it: it did not diverge, and it fits into memory."""
    return all(value <= 0 for value in trial.constraints.values())


def _full_value(trial: FrozenTrial, completed: Sequence[FrozenTrial]) -> float:
    """The value of a completed trial; of a pruned one its best, grown as completed trials grew from that epoch on.

    Without the growth every stopped trial would look worse than every completed one, whatever it was worth.
    """
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return trial.value
    epochs, best = len(trial.intermediate_values), max(trial.intermediate_values.values())
    there = [other for other in completed if len(other.intermediate_values) >= epochs]
    then = sum(_best_until(other, epochs) for other in there)
    if then <= 0:
        return best
    return best * max(1.0, sum(other.value or 0.0 for other in there) / then)


def _best_until(trial: FrozenTrial, epochs: int) -> float:
    return max(value for epoch, value in trial.intermediate_values.items() if epoch <= epochs)
