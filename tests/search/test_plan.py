"""What is promised before a search: as many trials as there will be, and no slot that nobody has measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_cohort import SIDE, TINY, write_cohort

from data_prep.errors import InputError
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.display import Display
from search.placement.memory import MemoryPlan, Shape
from search.placement.resources import Slots, plan_slots, slots_by_memory
from search.plan import describe_slots, dry_run
from search.runner import how_to_extend
from search.space import SearchSpace
from search.spec import BudgetConfig, CohortConfig, ResourcesConfig, SamplerConfig, Spec
from search.study.budget import Limit, planned_trials
from search.study.ledger import Ledger

SIX: dict[str, Any] = {
    "T": {"choice": [1, 2, 3]},
    "schedule": {"choice": {"cosine_restarts": {"t0": 10, "t_mult": 2}, "polynomial": None}},
}
ENDLESS: dict[str, Any] = {"fusion.local": {"uniform": [0.4, 0.8]}}
WITH_DEFAULTS: dict[str, Any] = {"fusion.local": {"uniform": [0.5, 0.9]}}
"""Its middle is the default."""


@pytest.mark.parametrize(
    ("ranges", "sampler", "budget", "expected"),
    [
        (SIX, {}, 64, 6),
        (SIX, {}, 4, 4),
        (SIX, {"name": "grid"}, 64, 6),
        (ENDLESS, {}, 64, 64),
        (ENDLESS, {"name": "grid", "points": 3}, 64, 4),  # three, and the defaults beside them
        (WITH_DEFAULTS, {"name": "grid", "points": 3}, 64, 3),
        (ENDLESS, {"name": "grid", "points": 3}, 3, 3),
        (SIX | ENDLESS, {"name": "grid", "points": 2}, 64, 13),
    ],
)
def test_no_more_trials_are_planned_than_there_are_points(
    ranges: dict[str, Any], sampler: dict[str, Any], budget: int, expected: int
) -> None:
    spec = Spec(search=ranges, sampler=SamplerConfig(**sampler), budget=BudgetConfig(trials=budget))
    assert planned_trials(spec, SearchSpace(ranges, TrainConfig(), "file")) == expected


def measured(slots: Slots) -> Slots:
    plan = MemoryPlan(10**10, 0, 32, {}, {Shape.of(TrainConfig(), 32): 4e9}, shares=16)
    return slots_by_memory(ResourcesConfig(), slots, plan, cores=8)


@pytest.mark.parametrize(
    ("settings", "gpus", "is_measured", "expected"),
    [
        ({}, 0, False, "8 at once, 1 thread each, or fewer where their memory, which the search measures first"),
        ({}, 2, False, "as many to a GPU as its memory holds, which the search measures first"),
        ({"trials_per_gpu": 2}, 2, False, "4 at once, 1 thread, 0.5 GPU each"),
        ({}, 0, True, "at most 2 at once, 1 thread each, memory shared by measure; a trial takes 4.0 to 4.0 of 10.0"),
        ({}, 2, True, "at most 4 at once, 1 thread each, GPUs shared by measure; a trial takes 4.0 to 4.0 of 10.0"),
    ],
)
def test_slots_are_told_as_far_as_they_are_known(
    settings: dict[str, int], gpus: int, is_measured: bool, expected: str
) -> None:
    config = ResourcesConfig(**settings)
    slots = plan_slots(config, cores=8, gpus=gpus)
    assert describe_slots(config, measured(slots) if is_measured else slots).startswith(expected)


def test_a_finished_search_is_extended_only_where_points_are_left(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger()
    ledger.draw_params(ledger.ask())
    ledger.finish(0, Outcome.DIVERGED)
    assert how_to_extend(Limit.TRIALS, ledger) == "To extend it: --trials +1 or --hours +1"


def test_a_search_without_points_left_says_to_widen_it(tmp_path: Path) -> None:
    space = SearchSpace({"T": {"choice": [1, 2]}}, TrainConfig(), "file")
    ledger = Ledger(f"sqlite:///{tmp_path / 'study.db'}", "search", space, SamplerConfig())
    for number in range(2):
        ledger.draw_params(ledger.ask())
        ledger.finish(number, Outcome.DIVERGED)
    assert "Every point of its space was run" in how_to_extend(Limit.SPACE, ledger)
    assert "--name" in how_to_extend(Limit.SPACE, ledger)


def test_a_dry_run_looks_at_the_cohort_and_says_what_it_did_not_look_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "mine"
    write_cohort(root)
    spec = Spec(**dict(TINY), search=ENDLESS, cohort=CohortConfig(root=str(root), image_size=SIDE))
    before = sorted(tmp_path.rglob("*"))
    dry_run(spec, "file", tmp_path / "results", Display())
    told = capsys.readouterr().out
    assert f"{root}, 3 patients, 12 slices; pixels are read by the first run" in told
    assert sorted(tmp_path.rglob("*")) == before
    (root / "masks" / "b" / "1.png").unlink()
    with pytest.raises(InputError, match=r"b/1\.png: no mask"):
        dry_run(spec, "file", tmp_path / "results", Display())
