"""Points from another run: taken, translated, refused; and enqueued once."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.common.errors import InputError
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.run.folder import RunFolder, write_spec
from search.run.warm_start import read_warm_start
from search.spec.settings import SamplerConfig, validate_spec
from search.spec.space import Params, SearchSpace
from search.study.ledger import Ledger

Open = Callable[..., Ledger]
THERE: dict[str, Any] = {"T": {"choice": [1, 2, 3]}, "optim.lr": {"log": [1e-5, 1e-1]}}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A finished run: T and the learning rate searched, the local share fixed at 0.6."""
    run = RunFolder(tmp_path / "other")
    run.root.mkdir()
    spec = validate_spec({"name": "other", "search": THERE, "fusion": {"local": 0.6}}, "file")
    write_spec(run, spec)
    space = SearchSpace(spec.search, spec.training, "other")
    ledger = Ledger(run.study_url, "search", space, SamplerConfig())
    points: list[Params] = [{"T": 2, "optim.lr": 2e-3}, {"T": 3, "optim.lr": 5e-2}, {"T": 3, "optim.lr": 3e-3}]
    ledger.warm_start([*points, {"T": 1, "optim.lr": 1e-5}])
    for value, outcome in (
        (0.1, Outcome.COMPLETED),
        (0.5, Outcome.COMPLETED),
        (0.7, Outcome.COMPLETED),
        (0.6, Outcome.COMPLETED),
        (0.9, Outcome.PRUNED),
    ):
        number = ledger.ask()
        ledger.draw_params(number)
        ledger.record_epoch(number, 1, value, 1.0)
        ledger.finish(number, outcome)
    return run.root


def space_of(ranges: dict[str, Any]) -> SearchSpace:
    return SearchSpace(ranges, TrainConfig(), "here")


HERE: dict[str, Any] = {
    "T": {"choice": [1, 2, 3]},
    "fusion.local": {"uniform": [0.3, 0.95]},
    "optim.lr": {"log": [1e-4, 1e-2]},
}


def test_the_best_come_first_and_what_was_fixed_there_is_filled_in(other: Path) -> None:
    start = read_warm_start(str(other), space_of(HERE), most=3)
    assert start.points == (
        {"T": 3, "fusion.local": 0.6, "optim.lr": 3e-3},
        {"T": 2, "fusion.local": 0.6, "optim.lr": 2e-3},
    )
    assert start.refused == (f"trial 2 of {other}: optim.lr = 0.05 is outside the range (0.0001 to 0.01, logarithmic)",)


def test_what_is_fixed_here_is_left_out_and_equal_points_come_once(other: Path) -> None:
    start = read_warm_start(str(other), space_of({"T": {"choice": [1, 2, 3]}}))
    assert start.points == ({"T": 3}, {"T": 2}, {"T": 1})


def test_a_database_alone_leaves_what_it_does_not_say_to_the_defaults(other: Path) -> None:
    url = RunFolder(other).study_url
    expected = {"T": 3, "fusion.local": 0.7, "optim.lr": 3e-3}
    assert read_warm_start(url, space_of(HERE)).points[0] == expected
    assert read_warm_start(f"{url}#search", space_of(HERE)).points[0] == expected


def test_a_bad_source_is_one_line(other: Path, tmp_path: Path, open_ledger: Open) -> None:
    open_ledger("empty")
    (tmp_path / "torn.db").write_bytes(b"no database at all" * 100)
    for source, words in (
        (str(tmp_path / "nowhere"), "not a run folder"),
        (f"{RunFolder(other).study_url}#mine", "no study of that name"),
        (f"sqlite:///{tmp_path / 'empty.db'}", "none of its trials is completed"),
        (f"sqlite:///{tmp_path / 'torn.db'}", "not a readable study"),
        ("nosuchdb://host/db", "not a readable study"),
        (f"sqlite:///{tmp_path / 'absent.db'}", "no such file"),
    ):
        with pytest.raises(InputError, match=re.escape(words)) as error:
            read_warm_start(source, space_of(HERE))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "absent.db").exists()


def some_points(space: SearchSpace) -> list[Params]:
    base = space.params(space.defaults)
    return [{**base, "fusion.local": 0.4}, {**base, "fusion.local": 0.5}]


def test_warm_points_follow_the_defaults_once_whatever_is_restarted(open_ledger: Open, space: SearchSpace) -> None:
    points = some_points(space)
    assert open_ledger().warm_start([*points, space.params(space.defaults), points[0]]) == 2
    drawn = []
    for _ in range(4):
        ledger = open_ledger()
        assert ledger.warm_start(points) == 0
        number = ledger.ask()
        drawn.append(ledger.draw_params(number))
        ledger.finish(number, Outcome.INFEASIBLE)
    assert drawn[:3] == [space.params(space.defaults), *points]
    assert drawn[3] not in drawn[:3]


def test_warm_points_of_a_search_under_way_are_the_next_trials(open_ledger: Open, space: SearchSpace) -> None:
    ledger = open_ledger()
    ledger.draw_params(ledger.ask())
    ledger.draw_params(ledger.ask())
    points = some_points(space)
    assert ledger.warm_start(points) == 2
    assert [ledger.draw_params(ledger.ask()) for _ in points] == points


def test_a_point_outside_the_space_is_a_fault_of_the_program(open_ledger: Open) -> None:
    with pytest.raises(ValueError, match=r"fusion\.local = 3 is outside"):
        open_ledger().warm_start([{"T": 1, "fusion.local": 3}])
