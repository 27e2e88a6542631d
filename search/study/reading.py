"""All trials of a study out of Optuna's tables, without an object a row: what opening a long study costs."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table

TABLES = (
    "trials",
    "trial_values",
    "trial_params",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
)
"""The tables that are read (schema of Optuna 5)."""
UNUSUAL = {"NAN": math.nan, "INF_POS": math.inf, "INF_NEG": -math.inf}
"""Values that Optuna stores by name, as not every database has them."""


def read_trials(connection: Connection, tables: Mapping[str, Table], study_id: int) -> list[FrozenTrial]:
    """The study's trials, by number; equal to what Optuna's own storage reads.

    Args:
        connection: to the study's database.
        tables: those of `TABLES`, by name.
        study_id: Optuna's.
    """
    trials = tables["trials"]
    of_study = sqlalchemy.select(trials.c.trial_id).where(trials.c.study_id == study_id).scalar_subquery()

    def gather(table: str, order: str, add: Callable[[dict[Any, Any], Any], None]) -> dict[int, dict[Any, Any]]:
        """What a table holds of each trial, by trial id; its rows as they were written."""
        source = tables[table]
        found: dict[int, dict[Any, Any]] = defaultdict(dict)
        wanted = sqlalchemy.select(source).where(source.c.trial_id.in_(of_study)).order_by(source.c[order])
        for row in connection.execute(wanted):
            add(found[row.trial_id], row)
        return found

    values = gather("trial_values", "trial_value_id", _add_value)
    params = gather("trial_params", "param_id", _add_param)
    curves = gather("trial_intermediate_values", "trial_intermediate_value_id", _add_epoch)
    user = gather("trial_user_attributes", "trial_user_attribute_id", _add_attribute)
    system = gather("trial_system_attributes", "trial_system_attribute_id", _add_attribute)
    wanted = sqlalchemy.select(trials).where(trials.c.study_id == study_id).order_by(trials.c.number)
    return [
        FrozenTrial(
            number=row.number,
            trial_id=row.trial_id,
            state=TrialState[row.state],
            value=None,
            values=[values[row.trial_id][objective] for objective in sorted(values[row.trial_id])] or None,
            datetime_start=row.datetime_start,
            datetime_complete=row.datetime_complete,
            params={name: value for name, (value, _) in params[row.trial_id].items()},
            distributions={name: distribution for name, (_, distribution) in params[row.trial_id].items()},
            user_attrs=user[row.trial_id],
            system_attrs=system[row.trial_id],
            intermediate_values=curves[row.trial_id],
        )
        for row in connection.execute(wanted)
    ]


def _add_value(found: dict[Any, Any], row: Any) -> None:
    found[row.objective] = UNUSUAL.get(row.value_type, row.value)


def _add_param(found: dict[Any, Any], row: Any) -> None:
    distribution = _distribution(row.distribution_json)
    found[row.param_name] = (distribution.to_external_repr(row.param_value), distribution)


def _add_epoch(found: dict[Any, Any], row: Any) -> None:
    found[row.step] = UNUSUAL.get(row.intermediate_value_type, row.intermediate_value)


def _add_attribute(found: dict[Any, Any], row: Any) -> None:
    found[row.key] = json.loads(row.value_json)


@cache
def _distribution(text: str) -> BaseDistribution:
    """Of a few texts there are thousands of rows."""
    return json_to_distribution(text)
