"""Searched ranges: reading, refusing, and the way between points and configurations."""

import re
from functools import partial
from typing import Any

import optuna
import pytest

from data_prep.common.errors import InputError
from lcnn.config import CosineRestarts, TrainConfig
from search.placement.memory import profile_grid
from search.spec.space import Range, SearchSpace, point_key

FULL: dict[str, Any] = {
    "T": {"choice": [1, 2, 3]},
    "fusion.local": {"uniform": [0.3, 0.95]},
    "loss.alignment": {"log": [0.01, 1.0]},
    "train.batch_size": {"int": [4, 16]},
    "schedule": {
        "choice": {
            "cosine_restarts": {"t0": {"choice": [5, 10]}, "t_mult": 2},
            "one_cycle": {"warmup": {"uniform": [0.05, 0.4]}},
            "polynomial": None,
        }
    },
}


def draw(space: SearchSpace, seed: int) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return space.suggest(study.ask())


def test_every_point_is_a_configuration_and_leads_back_to_itself() -> None:
    space = SearchSpace(FULL, TrainConfig(), "file")
    for seed in range(30):
        point = draw(space, seed)
        assert space.params(space.config(point)) == point


def test_a_range_by_a_former_name_is_that_of_the_setting() -> None:
    """And its parameter keeps the name that it has in the study of an earlier version."""
    space = SearchSpace({"model.window": {"choice": [4, 8]}}, TrainConfig(), "file")
    assert space.config({"model.window": 4}).model.window_size == 4
    assert space.params(TrainConfig()) == {"model.window": 8}
    assert profile_grid(space) == {"model.window": (4, 8)}


def test_every_searched_value_reaches_the_field_it_names() -> None:
    space = SearchSpace(FULL, TrainConfig(), "file")
    seen: dict[str, set[Any]] = {}
    for seed in range(60):
        point = draw(space, seed)
        config = space.config(point)
        assert (config.T, config.fusion.local) == (point["T"], point["fusion.local"])
        assert (config.loss.alignment, config.train.batch_size) == (point["loss.alignment"], point["train.batch_size"])
        assert config.schedule.name == point["schedule"]
        if isinstance(config.schedule, CosineRestarts):
            assert config.schedule.t0 == point["schedule.cosine_restarts.t0"]
        for name, value in point.items():
            seen.setdefault(name, set()).add(value)
    assert {name for name, values in seen.items() if len(values) > 1} == {r.name for r in space.ranges()}


def test_a_conditional_setting_is_drawn_only_under_its_option() -> None:
    space = SearchSpace(FULL, TrainConfig(), "file")
    for seed in range(30):
        point = draw(space, seed)
        assert ("schedule.one_cycle.warmup" in point) == (point["schedule"] == "one_cycle")


def test_what_is_not_searched_keeps_its_default() -> None:
    defaults = TrainConfig.model_validate({"optim": {"lr": 0.005}})
    space = SearchSpace(FULL, defaults, "file")
    assert space.config(draw(space, 1)).optim == defaults.optim


FINITE: dict[str, Any] = {"T": FULL["T"], "schedule": {"choice": {"polynomial": None, **FULL["schedule"]["choice"]}}}
del FINITE["schedule"]["choice"]["one_cycle"]


def test_all_points_of_a_finite_space_in_order() -> None:
    space = SearchSpace(FINITE, TrainConfig(), "file")
    points = list(space.points())
    first = [{"T": 1, "schedule": "polynomial"}]
    first += [{"T": 1, "schedule": "cosine_restarts", "schedule.cosine_restarts.t0": t0} for t0 in (5, 10)]
    assert points == [{**point, "T": T} for T in (1, 2, 3) for point in first]
    assert space.size() == 9
    assert space.is_finite
    assert all(space.fault(point) is None for point in points)


def test_a_grid_of_a_space_with_reals() -> None:
    space = SearchSpace(FULL, TrainConfig(), "file")
    values = partial(Range.grid_values, points=3)
    assert not space.is_finite
    assert space.size(values) == 3 * 3 * 3 * 13 * (2 + 3 + 1)
    points = list(space.points(values))
    assert len({point_key(point) for point in points}) == len(points) == space.size(values)
    by_name = {r.name: values(r) for r in space.ranges()}
    assert by_name["fusion.local"] == pytest.approx((0.3, 0.625, 0.95))
    assert by_name["loss.alignment"] == pytest.approx((0.01, 0.1, 1.0))
    assert (by_name["fusion.local"][0], by_name["fusion.local"][2]) == (0.3, 0.95)  # the ends to the last digit
    assert by_name["train.batch_size"] == tuple(range(4, 17))


def test_what_is_no_point_is_told_by_name() -> None:
    space = SearchSpace(FINITE, TrainConfig(), "file")
    cosine = {"T": 1, "schedule": "cosine_restarts"}
    assert space.fault({**cosine, "schedule.cosine_restarts.t0": 5}) is None
    assert space.fault(cosine) == "schedule.cosine_restarts.t0 is missing"
    assert space.fault({"T": True, "schedule": "polynomial"}) == "T = true is outside the range (one of 1, 2, 3)"
    assert space.fault({"T": 1, "schedule": "linear"}) == (
        'schedule = "linear" is outside the range (one of polynomial, cosine_restarts)'
    )
    assert space.fault({"T": 1, "schedule": "polynomial", "fusion.local": 0.5}) == "fusion.local is no parameter here"


def test_true_and_one_are_different_points() -> None:
    assert point_key({"a": 1, "b": 2}) == point_key({"b": 2, "a": 1})
    assert point_key({"a": 1}) != point_key({"a": True})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing searched": ({}, "nothing to search"),
    "unknown name": ({"optim.learning_rate": {"uniform": [0, 1]}}, "no such setting; did you mean optim"),
    "a section": ({"optim": {"uniform": [0, 1]}}, "whole section; search its fields, for example optim.lr"),
    "a pair": ({"loss.class_weights": {"uniform": [0, 1]}}, "a pair of numbers cannot be searched"),
    "no range": ({"T": 3}, "expected one range"),
    "two ranges": ({"T": {"int": [1, 2], "choice": [1]}}, "expected one range"),
    "unknown range": ({"T": {"normal": [0, 1]}}, "unknown range normal; write"),
    "no list": ({"T": {"choice": 3}}, "choice takes a list"),
    "no choices": ({"T": {"choice": []}}, "empty range"),
    "choice twice": ({"T": {"choice": [1, 1]}}, "listed twice"),
    "choice of lists": ({"T": {"choice": [[1], [2]]}}, "cannot be a choice"),
    "one end": ({"fusion.local": {"uniform": [0.5]}}, "takes two numbers"),
    "text end": ({"fusion.local": {"uniform": [0.5, "high"]}}, "takes two numbers"),
    "reversed": ({"fusion.local": {"uniform": [0.9, 0.5]}}, "empty range: 0.9 is not below 0.5"),
    "one point": ({"fusion.local": {"uniform": [0.7, 0.7]}}, "empty range"),
    "log from 0": ({"optim.lr": {"log": [0, 0.1]}}, "starts above 0"),
    "int of fractions": ({"T": {"int": [0.5, 2]}}, "whole numbers"),
    "value refused": ({"T": {"choice": [1, 99]}}, "less than or equal to 8"),
    "end refused": ({"fusion.local": {"uniform": [0.3, 1.5]}}, "less than or equal to 1"),
    "fraction for a whole number": ({"T": {"uniform": [1, 2]}}, "valid integer"),
    "unknown option": ({"schedule": {"choice": {"linear": None}}}, "linear"),
    "unknown field": ({"schedule": {"choice": {"cosine_restarts": {"warmup": 0.1}}}}, "unknown key"),
    "option is a number": ({"schedule": {"choice": {"polynomial": 3}}}, "mapping of the option's settings"),
    "no options": ({"schedule": {"choice": {}}}, "at least one option"),
    "a gap between whole numbers": ({"model.width": {"int": [8, 64]}}, "multiple of 4"),
    "too many whole numbers": ({"train.batch_size": {"int": [1, 5000]}}, "more than 1000 whole numbers"),
    "below a searched whole": ({"schedule.t0": {"choice": [5, 10]}, **FULL}, "schedule is searched as a whole"),
    "epochs": ({"train.epochs": {"choice": [5, 10]}}, "budgets cannot be compared"),
    "whole numbers for a fraction": ({"loss.dice": {"int": [0, 1]}}, "the default 0.5 is outside the range"),
    "default outside": ({"T": {"choice": [2, 3]}}, "the default 1 is outside the range"),
    "default option absent": ({"schedule": {"choice": {"polynomial": None}}}, 'default "cosine_restarts" is outside'),
    "default differs in a fixed setting": (
        {"schedule": {"choice": {"cosine_restarts": {"t0": {"choice": [5, 10]}, "t_mult": 1}}}},
        "make the two agree",
    ),
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.replace(" ", "-"))
def test_a_bad_range_gives_one_line_with_file_key_and_remedy(case: str) -> None:
    ranges, words = REFUSED[case]
    with pytest.raises(InputError, match=re.escape(words)) as error:
        SearchSpace(ranges, TrainConfig(), "spaces/mine.yaml")
    message = str(error.value)
    assert message.startswith(f"spaces/mine.yaml: search{'.' + next(iter(ranges)) if ranges else ''}")
    assert "\n" not in message
