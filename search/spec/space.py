"""The searched ranges: what the sampler may choose, checked against the settings it would replace.

    T:            {choice: [1, 2, 3]}
    loss.dice:    {uniform: [0.2, 0.8]}
    optim.lr:     {log: [1.0e-4, 1.0e-2]}
    train.batch_size: {int: [4, 16]}
    schedule:                                   # each option brings its own settings, fixed or searched
      choice:
        cosine_restarts: {t0: {choice: [5, 10]}, t_mult: 2}
        polynomial:      {power: {uniform: [0.5, 2.0]}}

A range's name is the dotted name of a field of `lcnn.config.TrainConfig`.
"""

import difflib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import ValidationError

from data_prep.common.errors import InputError
from lcnn.config import TrainConfig
from lcnn.dotted import known_keys, look_up, replaced
from lcnn.settings_file import describe

Value = bool | int | float | str | None
Params = dict[str, Value]
"""One point of the space: parameter names, as the study stores them, to values."""
Key = str
"""A point as something that can be looked up; see `point_key`."""

UNSEARCHABLE = {
    "train.epochs": "trials of different budgets cannot be compared; set it outside search",
    "train.seed": "a lucky seed is no setting; set it outside search",
}
MOST_WHOLE_NUMBERS = 1000
GRAMMAR = "{choice: [a, b]}, {uniform: [low, high]}, {log: [low, high]} or {int: [low, high]}"


@dataclass(frozen=True)
class Range:
    """One searched parameter."""

    name: str
    """Its name in the study."""
    distribution: BaseDistribution

    def edge_values(self) -> tuple[Value, ...]:
        """All choices, all whole numbers, or both ends of an interval, between which a field has no gaps."""
        d = self.distribution
        if isinstance(d, IntDistribution):
            return tuple(range(d.low, d.high + 1))
        if isinstance(d, CategoricalDistribution):
            return tuple(d.choices)
        assert isinstance(d, FloatDistribution)
        return (d.low, d.high)

    @property
    def is_finite(self) -> bool:
        """Whether its values can be counted."""
        return not isinstance(self.distribution, FloatDistribution)

    def grid_values(self, points: int) -> tuple[Value, ...]:
        """All choices, all whole numbers, or ``points`` values of an interval, its ends included.

        In a logarithmic range neighbours have the same ratio, else the same difference.
        """
        d = self.distribution
        if not isinstance(d, FloatDistribution):
            return self.edge_values()
        steps = [step / (points - 1) for step in range(1, points - 1)]
        if d.log:
            inner = [d.low * (d.high / d.low) ** step for step in steps]
        else:
            inner = [d.low + (d.high - d.low) * step for step in steps]
        return (d.low, *inner, d.high)

    def holds(self, value: Value) -> bool:
        """Whether ``value`` lies in the range."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in d.choices)
        assert isinstance(d, FloatDistribution | IntDistribution)
        kind = int if isinstance(d, IntDistribution) else int | float
        return isinstance(value, kind) and not isinstance(value, bool) and d.low <= value <= d.high

    def __str__(self) -> str:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return f"one of {', '.join(str(choice) for choice in d.choices)}"
        assert isinstance(d, FloatDistribution | IntDistribution)
        return f"{d.low:g} to {d.high:g}{', logarithmic' if d.log else ''}"


@dataclass(frozen=True)
class Option:
    """One alternative of a conditional parameter, with the settings only it has."""

    fixed: Mapping[str, Value]
    searched: tuple[tuple[str, Range], ...]
    """Field of the option, and its range."""


@dataclass(frozen=True)
class Alternatives:
    """A parameter whose value decides which further parameters exist."""

    chooser: Range
    options: Mapping[str, Option]


class SearchSpace:
    """All searched parameters of a space file, over the defaults that they replace.

    Args:
        ranges: the ``search`` section.
        defaults: the training configuration that a point of the space changes.
        where: names the file in messages.

    Raises:
        InputError: an unknown name, a malformed or empty range, a value that the field would refuse, or
            defaults that are no point of the space.
    """

    def __init__(self, ranges: Mapping[str, Any], defaults: TrainConfig, where: str) -> None:
        self._where = where
        self.defaults = defaults
        self.entries: dict[str, Range | Alternatives] = {}
        if not ranges:
            raise InputError(
                f"{where}: search: nothing to search; add a range, for example optim.lr: {{log: [1e-4, 1e-2]}}"
            )
        for name, body in ranges.items():
            self._check_name(name)
            self._check_parents(name, ranges)
            self.entries[name] = (
                self._alternatives(name, body) if self._is_conditional(body) else self._range(name, body)
            )
        self._check_values()
        self._check_defaults()

    # --- points ---------------------------------------------------------------------------------------

    def suggest(self, trial: optuna.Trial) -> Params:
        """Ask the trial for every parameter that applies; what it already has is kept."""
        return self.walk(partial(suggest_one, trial))

    def walk(self, choose: Callable[[Range], Value]) -> Params:
        """The point that ``choose`` makes, asked for every parameter that applies, choosers before their options."""
        params: Params = {}
        for entry in self.entries.values():
            chooser = entry.chooser if isinstance(entry, Alternatives) else entry
            params[chooser.name] = choose(chooser)
            if isinstance(entry, Alternatives):
                for _, searched in entry.options[str(params[chooser.name])].searched:
                    params[searched.name] = choose(searched)
        return params

    def points(self, values: Callable[[Range], Sequence[Value]] = Range.edge_values) -> Iterator[Params]:
        """Every point whose parameters have one of the given values, in a fixed order, the last one changing fastest.

        Conditional parameters vary only under their option. Without ``values``, all points of a finite space.
        """
        return _combine(list(self.entries.values()), values)

    def size(self, values: Callable[[Range], Sequence[Value]] = Range.edge_values) -> int:
        """How many `points` there are, without going through them."""
        return math.prod(
            sum(math.prod(len(values(r)) for _, r in option.searched) for option in entry.options.values())
            if isinstance(entry, Alternatives)
            else len(values(entry))
            for entry in self.entries.values()
        )

    @property
    def is_finite(self) -> bool:
        """Whether its points can be counted."""
        return all(searched.is_finite for searched in self.ranges())

    def fault(self, params: Mapping[str, Value]) -> str | None:
        """Why ``params`` is no point of the space; None where it is one."""
        applying = list(self.parameters(params))
        for searched in applying:
            if searched.name not in params:
                return f"{searched.name} is missing"
            if not searched.holds(params[searched.name]):
                return f"{searched.name} = {json.dumps(params[searched.name])} is outside the range ({searched})"
        unknown = params.keys() - {searched.name for searched in applying}
        return f"{min(unknown)} is no parameter here" if unknown else None

    def parameters(self, params: Mapping[str, Value]) -> Iterator[Range]:
        """The parameters that apply where the choosers have the values that ``params`` gives them."""
        for entry in self.entries.values():
            if isinstance(entry, Range):
                yield entry
                continue
            yield entry.chooser
            option = entry.options.get(str(params.get(entry.chooser.name)), Option({}, ()))
            yield from (searched for _, searched in option.searched)

    def config(self, params: Mapping[str, Value]) -> TrainConfig:
        """The training configuration at a point.

        Raises:
            ValidationError: the point is not valid, which a space that was built rules out.
        """
        values: dict[str, Any] = {}
        for name, entry in self.entries.items():
            chosen = params[name]
            if isinstance(entry, Alternatives):
                option = entry.options[str(chosen)]
                searched = {field: params[r.name] for field, r in option.searched}
                values[name] = {"name": chosen, **option.fixed, **searched}
            else:
                values[name] = chosen
        return replaced(self.defaults, values)

    def params(self, config: TrainConfig) -> Params:
        """The point at which a configuration lies; the reverse of `config`."""
        data = config.model_dump(mode="json")
        params: Params = {}
        for name, entry in self.entries.items():
            value = look_up(data, name)
            if isinstance(entry, Alternatives):
                params[name] = value["name"]
                option = entry.options.get(value["name"], Option({}, ()))
                params |= {r.name: value[field] for field, r in option.searched}
            else:
                params[name] = value
        return params

    def ranges(self) -> Iterator[Range]:
        """All ranges, conditional ones after their chooser."""
        for entry in self.entries.values():
            if isinstance(entry, Range):
                yield entry
                continue
            yield entry.chooser
            for option in entry.options.values():
                yield from (searched for _, searched in option.searched)

    # --- reading ----------------------------------------------------------------------------------------

    def _fail(self, key: str, message: str) -> InputError:
        return InputError(f"{self._where}: search.{key}: {message}")

    def _check_name(self, name: str) -> None:
        if name in UNSEARCHABLE:
            raise self._fail(name, f"cannot be searched: {UNSEARCHABLE[name]}")
        data = self.defaults.model_dump(mode="json")
        try:
            value = look_up(data, name)
        except (KeyError, AttributeError):
            known = list(known_keys(TrainConfig))
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}?" if close else f"searchable: {', '.join(known)}"
            raise self._fail(name, f"no such setting; {hint}") from None
        if isinstance(value, Mapping) and "name" not in value:
            raise self._fail(name, f"a whole section; search its fields, for example {name}.{next(iter(value))}")
        if isinstance(value, list):
            raise self._fail(name, "a pair of numbers cannot be searched; fix it in the file")

    def _check_parents(self, name: str, ranges: Mapping[str, Any]) -> None:
        parent = name.rpartition(".")[0]
        if parent in ranges:
            raise self._fail(name, f"{parent} is searched as a whole; put this range below one of its options")

    @staticmethod
    def _is_conditional(body: Any) -> bool:
        return isinstance(body, Mapping) and isinstance(body.get("choice"), Mapping)

    def _range(self, name: str, body: Any) -> Range:
        if not isinstance(body, Mapping) or len(body) != 1:
            raise self._fail(name, f"expected one range, {GRAMMAR}")
        (kind, values) = next(iter(body.items()))
        if kind not in ("choice", "uniform", "log", "int"):
            raise self._fail(name, f"unknown range {kind}; write {GRAMMAR}")
        if not isinstance(values, list):
            raise self._fail(name, f"{kind} takes a list; write {GRAMMAR}")
        return Range(name, self._choice(name, values) if kind == "choice" else self._interval(name, kind, values))

    def _choice(self, name: str, values: list[Any]) -> CategoricalDistribution:
        if not values:
            raise self._fail(name, "an empty range; list at least two values")
        for value in values:
            if not isinstance(value, bool | int | float | str):
                raise self._fail(name, f"{json.dumps(value)} cannot be a choice; list numbers, words, true or false")
        if len({(type(value), value) for value in values}) < len(values):
            raise self._fail(name, "a value is listed twice; list each once")
        return CategoricalDistribution(values)

    def _interval(self, name: str, kind: str, values: list[Any]) -> BaseDistribution:
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(values) != 2 or len(numbers) != 2:
            raise self._fail(name, f"{kind} takes two numbers [low, high], not {json.dumps(values)}")
        low, high = numbers
        if kind == "int" and high - low > MOST_WHOLE_NUMBERS:
            raise self._fail(name, f"more than {MOST_WHOLE_NUMBERS} whole numbers; list a choice of them")
        if not low < high:
            raise self._fail(
                name, f"an empty range: {low} is not below {high}; to fix the value, set it outside search"
            )
        if kind == "log" and low <= 0:
            raise self._fail(name, f"a logarithmic range starts above 0, not at {low}")
        if kind == "int":
            if not (isinstance(low, int) and isinstance(high, int)):
                raise self._fail(name, f"int takes whole numbers, not {json.dumps(values)}")
            return IntDistribution(low, high)
        return FloatDistribution(float(low), float(high), log=kind == "log")

    def _alternatives(self, name: str, body: Mapping[str, Any]) -> Alternatives:
        if len(body) != 1 or not body["choice"]:
            raise self._fail(name, "expected choice: with at least one option below it, and nothing else")
        options: dict[str, Option] = {}
        for option, settings in body["choice"].items():
            if settings is not None and not isinstance(settings, Mapping):
                raise self._fail(f"{name}.{option}", "expected a mapping of the option's settings")
            fixed: dict[str, Value] = {}
            searched: list[tuple[str, Range]] = []
            for field, value in (settings or {}).items():
                if isinstance(value, Mapping):
                    searched.append((field, self._range(f"{name}.{option}.{field}", value)))
                else:
                    fixed[field] = value
            options[option] = Option(fixed, tuple(searched))
        return Alternatives(Range(name, CategoricalDistribution(list(options))), options)

    # --- checking ---------------------------------------------------------------------------------------

    def _check_values(self) -> None:
        """Every choice and every end of a range must be a value that its field accepts."""
        for name, entry in self.entries.items():
            if isinstance(entry, Range):
                for value in entry.edge_values():
                    self._try_value(name, name, value)
                continue
            for option, settings in entry.options.items():
                first = {field: r.edge_values()[0] for field, r in settings.searched}
                base = {"name": option, **settings.fixed, **first}
                self._try_value(f"{name}.{option}", name, base)
                for field, searched in settings.searched:
                    for value in searched.edge_values():
                        self._try_value(searched.name, name, {**base, field: value})

    def _try_value(self, key: str, name: str, value: Any) -> None:
        try:
            replaced(self.defaults, {name: value})
        except ValidationError as error:
            raise self._fail(key, describe(error, TrainConfig)) from error

    def _check_defaults(self) -> None:
        """Trial 0 is the defaults, so they must be a point of the space."""
        point = self.params(self.defaults)
        for searched in self.ranges():
            if searched.name in point and not searched.holds(point[searched.name]):
                shown = json.dumps(point[searched.name])
                raise self._fail(
                    searched.name,
                    f"the default {shown} is outside the range ({searched}); trial 0 is the defaults, "
                    "so widen the range or change the default",
                )
        if self.config(point) != self.defaults:
            names = [name for name, entry in self.entries.items() if isinstance(entry, Alternatives)]
            raise self._fail(names[0], "the default has other fixed settings than its option here; make the two agree")


def point_key(params: Mapping[str, Value]) -> Key:
    """Equal for equal points, and for no others: true is not 1."""
    return json.dumps(params, sort_keys=True)


def _combine(entries: Sequence[Range | Alternatives], values: Callable[[Range], Sequence[Value]]) -> Iterator[Params]:
    if not entries:
        yield {}
        return
    for first in _entry_points(entries[0], values):
        for rest in _combine(entries[1:], values):
            yield {**first, **rest}


def _entry_points(entry: Range | Alternatives, values: Callable[[Range], Sequence[Value]]) -> Iterator[Params]:
    if isinstance(entry, Range):
        yield from ({entry.name: value} for value in values(entry))
        return
    for name, option in entry.options.items():
        ranges = [searched for _, searched in option.searched]
        for chosen in itertools.product(*(values(searched) for searched in ranges)):
            yield {entry.chooser.name: name, **{r.name: value for r, value in zip(ranges, chosen, strict=True)}}


def suggest_one(trial: optuna.Trial, searched: Range) -> Value:
    """Ask the trial for one parameter."""
    d = searched.distribution
    if isinstance(d, CategoricalDistribution):
        return trial.suggest_categorical(searched.name, d.choices)
    if isinstance(d, IntDistribution):
        return trial.suggest_int(searched.name, d.low, d.high)
    assert isinstance(d, FloatDistribution)
    return trial.suggest_float(searched.name, d.low, d.high, log=d.log)
