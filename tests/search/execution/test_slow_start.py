"""A Ray whose servers do not come up in the time that Ray gives them: real servers, and a clock that runs ahead."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray._private.node

from search.errors import RunFailed
from search.execution.tune_search import STARTS, ray_running
from search.placement.resources import Slots

SLOTS = Slots(1, 1, 0.0, 0, "cpu")
get_node = ray._private.services.get_node


class SlowStart:
    """Ray's own look at its new node: it finds none the first so many times, and each look takes Ray's whole time."""

    def __init__(self, slow: int) -> None:
        self.slow, self.looks = slow, 0

    def __call__(self, *arguments: object) -> object:
        self.looks += 1
        if self.looks <= self.slow:
            raise RuntimeError("no such node")
        return get_node(*arguments)


@pytest.fixture
def slow_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowStart]:
    look = SlowStart(request.param)
    monkeypatch.setattr(ray._private.services, "get_node", look)
    clock = itertools.count(0.0, 31.0)
    ours = SimpleNamespace(**{**vars(ray._private.node.time), "monotonic": lambda: next(clock)})
    monkeypatch.setattr(ray._private.node, "time", ours)
    yield look
    ray.shutdown()


def raylets() -> list[str]:
    """Command lines of the raylets that this process has started and that still run."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    found = [Path(f"/proc/{child}/cmdline") for task in children for child in task.read_text().split()]
    return [text for file in found if "raylet/raylet" in (text := file.read_text())]


@pytest.mark.parametrize("slow_start", [1], indirect=True)
def test_it_is_started_once_more_and_nothing_of_the_first_is_left(slow_start: SlowStart) -> None:
    with ray_running(SLOTS):
        assert slow_start.looks >= 2
        assert len(raylets()) == 1


@pytest.mark.parametrize("slow_start", [99], indirect=True)
def test_it_is_given_up_in_one_line(slow_start: SlowStart) -> None:
    with pytest.raises(RunFailed) as failed, ray_running(SLOTS):
        pass
    assert slow_start.looks == STARTS
    assert str(failed.value).startswith(f"Ray does not start, tried {STARTS} times (The current node timed out")
    assert str(failed.value).endswith("the same command goes on")
    assert not raylets()
