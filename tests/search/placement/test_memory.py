"""What trainings take, and how they are fitted onto a pool: the rules, and real trainings measured."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from data_prep.common.errors import InputError
from lcnn.config import TrainConfig
from lcnn.dotted import known_keys, look_up, replaced
from search.errors import RunFailed
from search.execution.measuring.probe import (
    ForkServer,
    MemoryPool,
    MemoryUse,
    find_pool,
    measurer_in,
    plan_memory,
    recall_memory,
)
from search.placement.memory import (
    MARGIN,
    MOST_SHAPES,
    ORDER,
    PROFILE_FIELDS,
    MemoryPlan,
    MemoryProfile,
    Peaks,
    Placement,
    place,
    profile_grid,
    share_of,
    space_profiles,
    stand_in,
    with_accumulation,
)
from search.spec.space import SearchSpace

SIDE = 32
TINY = TrainConfig.model_validate(
    {
        "model": {"width": 4, "levels": 2, "window_size": 4, "heads": 2, "global_backbone": "resnext14_4x2d"},
        "train": {"batch_size": 4},
    }
)
IRRELEVANT = {
    "model.max_angle_deg",
    "model.max_shift",
    "model.weights",
    "fusion.local",
    "train.epochs",
    "train.stacks_per_epoch",  # fewer stacks than a batch take less than is assumed
    "train.lesion_share",
    "train.clip_norm",
    "train.early_stopping",
    "train.seed",
}
SECTIONS_WITHOUT = ("loss", "optim", "schedule", "augment")


def test_of_every_setting_it_is_known_whether_memory_depends_on_it() -> None:
    leaves = {key for key in known_keys(TrainConfig) if key not in ("model", "fusion", "train", *SECTIONS_WITHOUT)}
    rest = {key for key in leaves if key.partition(".")[0] not in SECTIONS_WITHOUT}
    assert rest == {*PROFILE_FIELDS, *IRRELEVANT}


def test_named_values_are_all_in_order() -> None:
    for name, values in ORDER.items():
        for value in values:
            config = replaced(TrainConfig(), {name: value})
            assert look_up(config, name) == value
        with pytest.raises(ValidationError) as refusal:
            replaced(TrainConfig(), {name: "none of them"})
        assert sum(str(refusal.value).count(f"'{value}'") for value in values) == len(values)
        assert str(refusal.value).split("[")[0].count("'") == 2 * len(values), f"{name} has more values"


def test_a_shape_forgets_what_memory_does_not_depend_on() -> None:
    one = replaced(TINY, {"optim.lr": 0.01, "fusion.local": 0.4, "train.seed": 3})
    assert MemoryProfile.of(one, SIDE) == MemoryProfile.of(TINY, SIDE)
    assert MemoryProfile.of(replaced(TINY, {"T": 2}), SIDE) != MemoryProfile.of(TINY, SIDE)
    assert MemoryProfile.of(TINY, 2 * SIDE) != MemoryProfile.of(TINY, SIDE)
    assert MemoryProfile.from_fields(MemoryProfile.of(one, SIDE).fields(), SIDE) == MemoryProfile.of(one, SIDE)


@pytest.mark.parametrize(
    ("batch", "accumulation", "norm", "expected"),
    [
        (8, 1, "group", [1, 2, 4, 8]),
        (6, 1, "group", [1, 2, 4, 6]),
        (1, 1, "group", [1]),
        (8, 3, "group", [3, 6, 8]),
        (8, 1, "batch", [1, 2, 4]),  # its statistics need two stacks at once
        (4, 9, "group", [9]),
    ],
)
def test_micro_batches_halve_down_to_a_stack(batch: int, accumulation: int, norm: str, expected: list[int]) -> None:
    config = replaced(TINY, {"train.batch_size": batch, "train.accumulation": accumulation, "model.norm": norm})
    leaner = list(MemoryProfile.of(config, SIDE).leaner())
    assert [profile.config.train.accumulation for profile in leaner] == expected


# --- the profiles of a space ---------------------------------------------------------------------------------------


def make_space(ranges: dict[str, Any], defaults: TrainConfig = TINY) -> SearchSpace:
    return SearchSpace({"optim.lr": {"log": [1e-4, 1e-2]}, **ranges}, defaults, "file")


def test_every_shape_of_a_small_space_is_weighed() -> None:
    space = make_space({"T": {"choice": [1, 2, 3]}, "train.batch_size": {"choice": [2, 4]}})
    profiles = space_profiles(space, profile_grid(space), SIDE)
    assert profiles[0] == MemoryProfile.of(TINY, SIDE)
    found = {(profile.config.T, profile.config.train.batch_size) for profile in profiles}
    assert found == {(T, batch) for T in (1, 2, 3) for batch in (2, 4)}
    assert len(profiles) == 6


def test_a_space_without_such_ranges_has_one_shape() -> None:
    space = make_space({})
    assert space_profiles(space, profile_grid(space), SIDE) == [MemoryProfile.of(TINY, SIDE)]


def test_values_that_exclude_each_other_are_no_shape() -> None:
    defaults = TrainConfig.model_validate({"model": {"levels": 2}})
    space = make_space({"model.width": {"choice": [32, 20]}, "model.heads": {"choice": [4, 16]}}, defaults)
    found = {(s.config.model.width, s.config.model.heads) for s in space_profiles(space, profile_grid(space), SIDE)}
    assert found == {(32, 4), (32, 16), (20, 4)}


def test_in_a_large_space_the_more_demanding_stand_for_those_between() -> None:
    space = make_space({"T": {"choice": [3, 1, 2]}, "train.batch_size": {"int": [1, 40]}})
    grid = profile_grid(space)
    assert math.prod(map(len, grid.values())) <= MOST_SHAPES
    assert grid["train.batch_size"][-1] == 40
    assert grid["T"][-1] == 3
    for T in (1, 2, 3):
        for batch in range(1, 41):
            config = replaced(TINY, {"T": T, "train.batch_size": batch})
            profile = stand_in(config, grid, SIDE)
            assert profile in space_profiles(space, grid, SIDE)
            assert profile is not None
            assert profile.config.T >= T
            assert profile.config.train.batch_size >= batch


def test_fewer_micro_batches_are_the_more_demanding() -> None:
    grid = profile_grid(make_space({"train.accumulation": {"choice": [1, 2, 4]}}), most=1)
    assert grid == {"train.accumulation": (1,)}


def test_a_value_beyond_the_range_has_no_stand_in() -> None:
    grid = profile_grid(make_space({"T": {"choice": [1, 2]}}))
    assert stand_in(replaced(TINY, {"T": 3}), grid, SIDE) is None


# --- shares --------------------------------------------------------------------------------------------------------


def test_a_share_holds_the_weight_and_its_margin_and_is_no_larger_than_it_must_be() -> None:
    for peak in range(1, 1400, 7):
        share = share_of(peak, 1600, 16)
        assert share * 16 == int(share * 16)
        assert (share - 1 / 16) * 1600 < peak * (1 + MARGIN) <= share * 1600


def uses(*peaks: float) -> Peaks:
    """Weights of `TINY` in 1, 2, 4 micro-batches."""
    return dict(zip(MemoryProfile.of(TINY, SIDE).leaner(), peaks, strict=False))


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ((100,), Placement(0.125, 1, 100)),
        ((1391,), Placement(1.0, 1, 1391)),
        ((2000, 1000), Placement(0.75, 2, 1000)),
        ((math.inf, 2000, 800), Placement(0.625, 4, 800)),
        ((1500, 1450, 1400), Placement(1.0, 4, 1400)),  # seen to fit, though without a margin
        ((math.inf, math.inf, math.inf), None),
        ((3000, 2500, 1601), None),
        ((), Placement(1.0, 1)),  # not measured
    ],
)
def test_a_training_is_fitted_onto_a_card(peaks: tuple[float, ...], expected: Placement | None) -> None:
    assert place(MemoryProfile.of(TINY, SIDE), 1600, uses(*peaks), 16) == expected


def make_plan(peaks: Peaks, **ranges: Any) -> MemoryPlan:
    return MemoryPlan(1600, 0, SIDE, profile_grid(make_space(ranges), most=1), peaks, 16)


def test_a_training_that_goes_on_keeps_its_micro_batches() -> None:
    plan = make_plan(uses(200, 120, 90))
    assert plan.place(TINY) == Placement(0.1875, 1, 200)
    assert plan.place(TINY, 4) == Placement(0.125, 4, 90)
    # Begun on a larger pool than this one: it is the checkpoint's, so it gets all there is.
    assert make_plan(uses(2000, 400)).place(TINY, 1) == Placement(1.0, 1, 2000)


def test_micro_batches_are_halved_as_often_as_the_stand_in_s() -> None:
    ranges = {"train.batch_size": {"int": [2, 4]}}
    plan = make_plan(uses(2000, 400), **ranges)
    assert plan.place(with_accumulation(replaced(TINY, {"train.batch_size": 3}), 1)) == Placement(0.3125, 2, 400)
    plan = make_plan(uses(2000, 2000, 400), **ranges)
    assert plan.place(replaced(TINY, {"train.batch_size": 3})) == Placement(0.3125, 3, 400)


def test_a_begun_training_is_placed_alike_by_its_settings_and_as_it_ran() -> None:
    plan = make_plan(uses(2000, 1500, 400))
    placed = plan.place(TINY)
    assert placed == Placement(0.3125, 4, 400)
    assert plan.place(TINY, 4) == placed
    assert plan.place(with_accumulation(TINY, 4), 4) == placed


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class Scale:
    """Counts what it is asked to measure; every stack at once takes 400 bytes."""

    asked: list[MemoryProfile] = field(default_factory=list)

    def __call__(self, profile: MemoryProfile) -> MemoryUse:
        self.asked.append(profile)
        return MemoryUse(400.0 * profile.config.train.stacks_at_once * profile.config.T, 7)


POOL = MemoryPool("a pool", 2000, 16)


def test_shapes_are_weighed_once_and_leaner_ones_where_they_do_not_fit(tmp_path: Path) -> None:
    scale, space = Scale(), make_space({"T": {"choice": [1, 2, 5]}})
    plan = plan_memory(space, SIDE, tmp_path / "memory.json", POOL, scale)
    asked = [(profile.config.T, profile.config.train.accumulation) for profile in scale.asked]
    assert asked == [(1, 1), (2, 1), (2, 2), (5, 1), (5, 2), (5, 4)]
    assert plan.context_bytes == 7
    assert plan.place(TINY) == Placement(0.9375, 1, 1600)
    assert plan.place(replaced(TINY, {"T": 2})) == Placement(0.9375, 2, 1600)
    assert plan.place(replaced(TINY, {"T": 5})) == Placement(1.0, 4, 2000)


def test_a_later_session_measures_again_on_another_device_only(tmp_path: Path) -> None:
    path, space = tmp_path / "memory.json", make_space({"T": {"choice": [1, 2]}})
    first = plan_memory(space, SIDE, path, POOL, Scale())
    again = Scale()
    assert plan_memory(space, SIDE, path, POOL, again) == first
    assert again.asked == []
    other = Scale()
    plan_memory(space, SIDE, path, MemoryPool("another", 2000, 16), other)
    assert len(other.asked) == 3
    assert json.loads(path.read_text())["device"] == "another"


def test_windows_are_weighed_apart_and_files_of_earlier_versions_are_of_one(tmp_path: Path) -> None:
    path, space = tmp_path / "memory.json", make_space({"T": {"choice": [1, 2]}})
    plan = plan_memory(space, SIDE, path, POOL, Scale())
    content = json.loads(path.read_text())
    for row in content["trainings"]:
        del row["windows"]
        row["model.window"] = row.pop("model.window_size")
    path.write_text(json.dumps(content))
    assert recall_memory(space, SIDE, path, POOL) == plan
    assert recall_memory(space, SIDE, path, POOL, windows=3) is None
    scale = Scale()
    three = plan_memory(space, SIDE, path, POOL, scale, windows=3)
    assert {profile.windows for profile in scale.asked} == {3}
    assert three.place(TINY) == plan.place(TINY)
    assert recall_memory(space, SIDE, path, POOL, windows=3) == three


def test_what_was_weighed_is_recalled_whole_or_not_at_all(tmp_path: Path) -> None:
    path, space = tmp_path / "memory.json", make_space({"T": {"choice": [1, 2]}})
    assert recall_memory(space, SIDE, path, POOL) is None
    plan = plan_memory(space, SIDE, path, POOL, Scale())
    assert recall_memory(space, SIDE, path, POOL) == plan
    assert recall_memory(space, SIDE, path, MemoryPool("another", 2000, 16)) is None
    assert recall_memory(space, 2 * SIDE, path, POOL) is None
    assert recall_memory(make_space({"T": {"choice": [1, 2, 3]}}), SIDE, path, POOL) is None


def test_what_ran_out_of_memory_is_weighed_again_where_more_is_free(tmp_path: Path) -> None:
    path, space = tmp_path / "memory.json", make_space({})
    plan = plan_memory(space, SIDE, path, POOL, lambda profile: MemoryUse(math.inf, 0))
    assert plan.place(TINY) is None
    scale = Scale()
    assert plan_memory(space, SIDE, path, POOL, scale).place(TINY) is None
    assert scale.asked == []
    assert plan_memory(space, SIDE, path, MemoryPool("a pool", 4000, 16), scale).place(TINY) == Placement(0.5, 1, 1600)


@pytest.mark.parametrize("text", ["{", "[]", '{"device": "a pool", "total_bytes": 1, "trainings": [{"T": 1}]}'])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "memory.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"memory\.json: damaged .*; delete it") as refusal:
        plan_memory(make_space({}), SIDE, path, POOL, Scale())
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer() as opened:
        yield opened


def test_real_trainings_weigh_more_in_larger_batches_and_less_in_micro_batches(fork_server: ForkServer) -> None:
    pool = find_pool(fork_server, "cpu", 0)
    measure = measurer_in(fork_server, "cpu", 1, pool)
    config = replaced(TINY, {"train.batch_size": 16})
    small, large, lean = (
        measure(MemoryProfile.of(changed, 96)) for changed in (TINY, config, with_accumulation(config, 16))
    )
    grown = [use.peak_bytes - use.context_bytes for use in (small, large, lean)]
    assert min(grown) > 0
    assert grown[1] > 1.5 * grown[0]
    assert grown[2] < 0.7 * grown[1]
    # Each has a process of its own: what the largest took is not in the one after it.
    assert abs(lean.context_bytes - small.context_bytes) < 0.05 * small.context_bytes


def test_a_training_that_outgrows_the_card_is_stopped_there(fork_server: ForkServer) -> None:
    measure = measurer_in(fork_server, "cpu", 1, MemoryPool("small", 60_000_000, 16))
    assert measure(MemoryProfile.of(replaced(TINY, {"train.batch_size": 64}), 256)) == MemoryUse(math.inf, 0)


def test_a_weighing_that_breaks_off_is_a_failed_run(fork_server: ForkServer) -> None:
    with pytest.raises(RunFailed, match="broke off with exit code 1"):
        measurer_in(fork_server, "cpu", 1, POOL)(None)  # type: ignore[arg-type]
    assert fork_server.run(abs, -3) == 3
