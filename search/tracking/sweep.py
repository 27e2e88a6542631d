"""A space file as a W&B sweep: the same ranges, for W&B's own search over the same training code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from data_prep.common.errors import InputError
from search.spec.settings import Spec
from search.spec.space import Alternatives, Params, Range, SearchSpace, Value
from search.tracking.mode import PROJECT
from search.tracking.runs import METRIC

HALVING = ("asha", "hyperband")
"""Schedulers that stop at the rungs of W&B's hyperband: grace, grace * reduction, grace * reduction ** 2, ..."""


def sweep_config(spec: Spec, space: SearchSpace, space_file: Path, changes: list[str]) -> dict[str, Any]:
    """The sweep, as W&B reads it.

    Args:
        spec: the space file, with the changes.
        space: its ranges.
        space_file: as the agent's command names it.
        changes: that command's further options.
    """
    config: dict[str, Any] = {
        "project": PROJECT,
        "name": f"{spec.name}-{spec.profile}" if spec.profile else spec.name,
        "method": "bayes",
        "metric": {"name": METRIC, "goal": "maximize"},
    }
    if spec.budget.trials is not None:
        config["run_cap"] = spec.budget.trials
    if spec.scheduler.name in HALVING:
        config["early_terminate"] = {
            "type": "hyperband",
            "min_iter": spec.scheduler.grace,
            "eta": spec.scheduler.reduction,
        }
    agent = ["-m", "search.wandb_agent", "--space", str(space_file), *changes]
    return {
        **config,
        "command": ["${env}", "${interpreter}", *agent],
        "parameters": {searched.name: _parameter(searched) for searched in space.ranges()},
    }


def sweep_text(spec: Spec, space: SearchSpace, space_file: Path, changes: list[str]) -> str:
    """The sweep as a YAML file that says how to use it, and where it departs from the search."""
    lines = [
        f"W&B sweep of the ranges of {space_file}, profile {spec.profile or 'none'}.",
        "  wandb sweep FILE                 prints the sweep's name",
        "  wandb agent NAME                 in the folder of run_search.py; as often as trials are to run at once",
        *_departures(spec, space),
    ]
    comment = "".join(f"# {line}\n" for line in lines)
    return comment + yaml.safe_dump(sweep_config(spec, space, space_file, changes), sort_keys=False)


def _departures(spec: Spec, space: SearchSpace) -> list[str]:
    lines = [
        "It proposes by W&B's Gaussian process; trial 0 is not the defaults, for a sweep cannot begin with a point."
    ]
    choosers = [name for name, entry in space.entries.items() if isinstance(entry, Alternatives)]
    if choosers:
        lines += [
            f"W&B has no ranges that depend on a choice: it always draws the settings of every {', '.join(choosers)},",
            "named by the option, and the agent ignores those of the options that were not chosen.",
        ]
    if spec.scheduler.name in HALVING:
        lines.append("W&B stops at the same rungs, but by its own rule, and not before its server has looked.")
    elif spec.scheduler.name != "none":
        lines.append(f"W&B has no {spec.scheduler.name} rule: nothing is stopped early.")
    limits = [name for name in ("epochs", "hours", "gpu_hours", "target", "plateau") if getattr(spec.budget, name)]
    if limits:
        lines.append(f"Of the budget only the number of trials is kept, not {', '.join(limits)}.")
    if spec.objective.cost != "none":
        lines.append(f"It looks for the best Dice alone, not for the front with {spec.objective.cost}.")
    return lines


def _parameter(searched: Range) -> dict[str, Any]:
    d = searched.distribution
    if isinstance(d, CategoricalDistribution):
        return {"values": list(d.choices)}
    if isinstance(d, IntDistribution):
        return {"distribution": "int_uniform", "min": d.low, "max": d.high}
    assert isinstance(d, FloatDistribution)
    return {"distribution": "log_uniform_values" if d.log else "uniform", "min": d.low, "max": d.high}


def drawn_params(space: SearchSpace, config: Mapping[str, Any]) -> Params:
    """The point of the space that a sweep has drawn; settings of options that it did not choose are ignored.

    Raises:
        InputError: a parameter is missing, or outside its range: the sweep is of another space file.
    """

    def draw(searched: Range) -> Value:
        if searched.name not in config:
            raise InputError(f"sweep: {searched.name} is missing; write the sweep anew: python -m search.wandb_sweep")
        value = _as_declared(searched, config[searched.name])
        if not searched.holds(value):
            raise InputError(
                f"sweep: {searched.name} = {value} is outside the range ({searched}); write the sweep anew: "
                "python -m search.wandb_sweep"
            )
        return value

    return space.walk(draw)


def _as_declared(searched: Range, value: Any) -> Value:
    """The value as the range has it: JSON, through which it came, does not tell 10 from 10.0."""
    d = searched.distribution
    if isinstance(d, CategoricalDistribution) and not isinstance(value, bool):
        return next((c for c in d.choices if c == value and not isinstance(c, bool)), value)
    if isinstance(d, IntDistribution) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value
