"""Two objectives: the front, whom it spares, and what samplers make of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from curves import dice_after

from data_prep.common.errors import InputError
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.report.summary import write_front
from search.spec.settings import SamplerConfig, validate_spec
from search.spec.space import SearchSpace
from search.study.ledger import Ledger, TrialRecord
from search.study.objectives.front import undominated
from search.study.objectives.pareto import COSTS, FrontGuard, front, front_summary
from search.study.scheduling.schedulers import Asha, Decision
from search.winner.finalists import ranking


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(0.5, 1.0, "a")], ["a"]),
        ([(0.5, 1.0, "a"), (0.6, 2.0, "b")], ["b", "a"]),
        ([(0.5, 2.0, "a"), (0.6, 1.0, "b")], ["b"]),
        ([(0.5, 1.0, "a"), (0.5, 1.0, "twin")], ["a"]),
        ([(0.5, 1.0, "a"), (0.5, 0.9, "cheaper")], ["cheaper"]),
        ([(0.4, 1.0, "a"), (0.5, 1.0, "better")], ["better"]),
        ([(0.3, 1.0, "a"), (0.6, 3.0, "b"), (0.4, 2.5, "c"), (0.5, 2.0, "d")], ["b", "d", "a"]),
    ],
)
def test_the_front_holds_what_nothing_beats(points: list[tuple[float, float, str]], expected: list[str]) -> None:
    assert undominated(points) == expected


def trial(
    number: int, *curve: float, gb: float | None = 1.0, outcome: Outcome | None = Outcome.COMPLETED, pace: float = 1.0
) -> TrialRecord:
    memory = None if gb is None else gb * 1e9
    return TrialRecord(number, {"T": number}, curve, outcome, pace * len(curve), memory_bytes=memory)


def test_faults_and_unknown_costs_are_on_no_front() -> None:
    trials = [
        trial(0, 0.5, gb=2.0),
        trial(1, 0.9, gb=None),
        trial(2, 0.9, outcome=Outcome.DIVERGED),
        trial(3, gb=0.1, outcome=Outcome.INFEASIBLE),
        trial(4, 0.8, gb=0.1, outcome=None),
        trial(5, 0.4, gb=1.0, outcome=Outcome.PRUNED),
    ]
    assert [t.number for t in front(trials, COSTS["memory"])] == [0, 5]


def test_seconds_are_those_of_an_epoch() -> None:
    slow, fast = trial(0, 0.1, 0.5, pace=3.0), trial(1, 0.4, pace=2.0)
    assert [COSTS["seconds"].of(t) for t in (slow, fast, trial(2))] == [3.0, 2.0, None]
    points = front_summary([slow, fast], COSTS["seconds"])["trials"]
    assert points == [{"trial": 0, "dice": 0.5, "cost": 3.0}, {"trial": 1, "dice": 0.4, "cost": 2.0}]


RIVALS = [trial(0, 0.5, 0.6, gb=2.0), trial(1, 0.4, 0.7, gb=2.0)]


@pytest.mark.parametrize(
    ("own", "rivals", "decision"),
    [
        (trial(2, 0.3, gb=2.0, outcome=None), RIVALS, Decision.STOP),
        (trial(2, 0.3, gb=1.0, outcome=None), RIVALS, Decision.CONTINUE),
        (trial(2, 0.3, gb=1.9, outcome=None), RIVALS, Decision.STOP),  # as good as the same cost
        (trial(2, 0.3, gb=None, outcome=None), RIVALS, Decision.STOP),
        (trial(2, 0.3, gb=1.0, outcome=None), [*RIVALS, trial(3, 0.3, gb=1.0)], Decision.STOP),
        (trial(2, 0.3, gb=1.0, outcome=None), [*RIVALS, trial(3, 0.3, gb=1.0, outcome=None)], Decision.STOP),
        (trial(2, 0.3, gb=1.0, outcome=None), [*RIVALS, trial(3, 0.2, 0.9, gb=1.0)], Decision.CONTINUE),
        (trial(2, 0.3, gb=1.0, outcome=None), [*RIVALS, trial(3, 0.9, outcome=Outcome.DIVERGED)], Decision.CONTINUE),
        (trial(2, 0.6, gb=9.0, outcome=None), RIVALS, Decision.CONTINUE),  # the rule itself lets it go on
    ],
)
def test_who_is_on_the_front_is_not_stopped(own: TrialRecord, rivals: list[TrialRecord], decision: Decision) -> None:
    rule = Asha(grace=1, reduction=3, epochs=9)
    trials = [*rivals, own]
    guard = FrontGuard(rule, lambda: trials, COSTS["memory"])
    for rival in rivals:
        guard.recall(rival.number, rival.curve)
    assert guard.decide(own.number, own.curve) == decision
    assert own.number in rule.rungs[1]


def local_of(trials: list[TrialRecord]) -> list[float]:
    return [float(t.params["fusion.local"]) for t in trials]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_seek_the_front(tmp_path: Path, sampler: str) -> None:
    """Dice is best at 0.6, either side alike, and what lies below costs less: the front is below, so are proposals."""
    space = SearchSpace({"fusion.local": {"uniform": [0.3, 0.9]}}, TrainConfig(), "file")
    below = {}
    for cost in (None, COSTS["memory"].of):
        url = f"sqlite:///{tmp_path / str(cost is None)}.db"
        ledger = Ledger(url, "search", space, SamplerConfig(name=sampler, startup=5), cost)
        for _ in range(12):
            number = ledger.ask()
            config = space.config(ledger.draw_params(number))
            ledger.record_placement(number, accumulation=1, gpu_share=0.0, memory_bytes=1e9 * config.fusion.local)
            ledger.record_epoch(number, 1, dice_after(config, 1), 1.0)
            ledger.finish(number, Outcome.PRUNED if number % 3 == 1 else Outcome.COMPLETED)
        below[cost is not None] = sum(local < 0.55 for local in local_of(ledger.trials()[5:]))
    assert below[True] > below[False]


def test_a_long_study_is_shown_by_its_front_and_its_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.study.sampling import samplers

    monkeypatch.setattr(samplers, "MOST_OBSERVATIONS", 6)
    space = SearchSpace({"fusion.local": {"uniform": [0.3, 0.9]}}, TrainConfig(), "file")
    cost = COSTS["memory"].of
    ledger = Ledger(f"sqlite:///{tmp_path}/study.db", "search", space, SamplerConfig(name="random"), cost)
    for number in range(20):
        ledger.draw_params(ledger.ask())
        best = number in (3, 5)
        ledger.record_placement(number, accumulation=1, gpu_share=0.0, memory_bytes=1e9 * (number if best else 50))
        ledger.record_epoch(number, 1, 0.1 * number if best else 0.01, 1.0)
        ledger.finish(number, Outcome.COMPLETED)
    shown = samplers._PricedStudy(ledger.study, 20, ledger._cost or (lambda _: None)).get_trials(deepcopy=False)
    assert [t.number for t in shown] == [3, 5, 16, 17, 18, 19]
    assert shown[0].values == [pytest.approx(0.3), 3.0]  # noqa: PD011 (a trial, not a table)


def test_the_front_comes_first_among_those_that_are_confirmed(
    tmp_path: Path, space: SearchSpace, open_ledger: Callable[..., Ledger]
) -> None:
    spec = validate_spec({"objective": {"cost": "memory"}}, "file")
    ledger = open_ledger()
    for gb, dice in ((3.0, 0.5), (3.0, 0.6), (1.0, 0.4), (2.0, 0.3)):
        number = ledger.ask()
        ledger.draw_params(number)
        ledger.record_placement(number, accumulation=1, gpu_share=0.0, memory_bytes=gb * 1e9)
        ledger.record_epoch(number, 1, dice, 1.0)
        ledger.finish(number, Outcome.COMPLETED)
    assert [t.number for t in ranking(spec, ledger)] == [1, 2, 0, 3]
    assert [t.number for t in ranking(validate_spec({}, "file"), ledger)] == [1, 0, 2, 3]
    write_front(tmp_path / "pareto.csv", ledger.trials(), COSTS["memory"])
    table = pd.read_csv(tmp_path / "pareto.csv")
    assert table[["number", "best_val_dice", "memory_GB"]].to_numpy().tolist() == [[1, 0.6, 3.0], [2, 0.4, 1.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": {"cost": "seconds"}, "sampler": {"name": "cmaes"}}, "sampler.name: cmaes"),
        ({"objective": {"cost": "memory"}, "resources": {"trials_per_gpu": 2}}, "resources.trials_per_gpu"),
        ({"objective": {"cost": "watts"}}, "objective.cost"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate_spec(settings, "file")
