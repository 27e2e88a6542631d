"""What is promised before a search: as many trials as there will be, and no slot that nobody has measured."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_cohort import SIDE, TINY, write_cohort

from data_prep.cohort.split import PARTS, SplitConfig, make_split
from data_prep.common.errors import InputError
from data_prep.phantom.config import PhantomConfig
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.commands.dry_run import describe_slots, dry_run
from search.commands.search import how_to_extend
from search.console.display import Display
from search.placement.memory import MemoryPlan, MemoryProfile
from search.placement.resources import Slots, plan_slots, slots_by_memory
from search.run.checks import Asked, ExpectedScans, expected_scans
from search.run.opened import run_of
from search.spec.settings import BudgetConfig, CohortConfig, ResourcesConfig, SamplerConfig, Spec
from search.spec.space import SearchSpace
from search.study.budget.limits import Limit, planned_trials
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
    plan = MemoryPlan(10**10, 0, 32, {}, {MemoryProfile.of(TrainConfig(), 32): 4e9}, shares=16)
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


def own_spec(tmp_path: Path, **changes: Any) -> Spec:
    """A search over a small cohort of the user's own."""
    root = tmp_path / "mine"
    if not root.exists():
        write_cohort(root)
    thirds = SplitConfig(train=0.34, val=0.33, test=0.33)
    cohort = CohortConfig(root=str(root), image_size=SIDE, split=thirds)
    return Spec(**{"training": TINY, "search": ENDLESS, "cohort": cohort, **changes})


def test_a_dry_run_reads_the_cohort_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = own_spec(tmp_path)
    root = tmp_path / "mine"
    before = sorted(tmp_path.rglob("*"))
    dry_run(run_of(spec, "file", tmp_path / "results", Display()), "file")
    told = capsys.readouterr().out
    assert f"{root}, 3 patients, 12 slices\n" in told
    assert "Split: 1 patient to train, 1 patient to validate, 1 patient to test" in told
    assert sorted(tmp_path.rglob("*")) == before
    (root / "masks" / "b" / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b/1\.png"):
        dry_run(run_of(spec, "file", tmp_path / "results", Display()), "file")
    (root / "masks" / "b" / "1.png").unlink()
    with pytest.raises(InputError, match=r"b/1\.png: no mask"):
        dry_run(run_of(spec, "file", tmp_path / "results", Display()), "file")


REFUSED: dict[str, tuple[dict[str, Any], Asked, str]] = {
    "folds": ({"folds": {"count": 3}}, Asked(), "folds.count: 3 folds, but only 2 patients"),
    "study": ({"storage": {"study": "nonsense"}}, Asked(), "storage.study: nonsense: no database URL"),
    "study in no folder": (
        {"storage": {"study": "sqlite:////proc/version/study.db"}},
        Asked(),
        "/proc/version: cannot be written",
    ),
    "checkpoints": ({"storage": {"checkpoints": "/proc/version/x"}}, Asked(), "cannot be written"),
    "warm start": ({}, Asked(warm_start="nowhere"), "nowhere: not a run folder"),
    "address": ({}, Asked(address="nobody"), "--address nobody: not HOST:PORT"),
    "address where nobody is": ({}, Asked(address="127.0.0.1:9"), "no Ray cluster can be joined there"),
    "extension": ({}, Asked(extension=True), "no run to extend"),
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.replace(" ", "-"))
def test_a_dry_run_refuses_what_the_search_refuses(tmp_path: Path, case: str) -> None:
    changes, asked, words = REFUSED[case]
    spec = own_spec(tmp_path, **changes)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as refused:
        dry_run(run_of(spec, "file", tmp_path / "results", Display()), "file", asked)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_results_that_are_a_file(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    with pytest.raises(InputError, match=r"cannot be written \(.*results is a file\); make it writable, or choose"):
        dry_run(run_of(own_spec(tmp_path), "file", tmp_path / "results", Display()), "file")


@pytest.mark.parametrize("seed", range(5))
def test_a_phantom_that_is_not_built_has_as_many_lesions_a_part_as_it_will_have(seed: int) -> None:
    """However large they turn out to be; so its folds can be checked before it is built."""
    expected = expected_scans(PhantomConfig(patients=45, seed=seed))
    draw = random.Random(seed)
    built = ExpectedScans({name: draw.random() * (volume > 0) for name, volume in expected.patients.items()})
    assert 0 < sum(expected.patients.values()) < 45
    config = SplitConfig(seed=seed)

    def lesions(scans: ExpectedScans) -> list[int]:
        split = make_split(scans, config)
        return [sum(scans.lesion_volume(name) > 0 for name in getattr(split, part)) for part in PARTS]

    assert lesions(expected) == lesions(built)
