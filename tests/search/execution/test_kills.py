"""kill -9 at random instants: a search in a process of its own, killed for real, again and again.

The process runs the real conductor over a real SQLite study; its trainings come from a formula and keep their state
in files as the real ones do: written before the epoch is told, so after a kill a checkpoint may be an epoch ahead of
the study. tests/search/execution/test_cluster.py kills Ray's parts, tests/e2e the whole command.
"""

import json
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from curves import dice_after, epoch_result

from data_prep.common.files import write_text_atomically
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult
from search.spec.settings import BudgetConfig, SamplerConfig
from search.spec.space import SearchSpace
from search.study.conductor import Conductor, Proposal
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import Asha, Decision

EPOCHS, TRIALS = 9, 8
KILLS = 80
DIVERGES_ABOVE = 5e-3
"""Learning rate above which the formula's trainings diverge."""


def training(folder: Path, config: TrainConfig) -> Iterator[EpochResult]:
    """Epochs that are done are told again, as `lcnn.training.fit.fit` does."""
    state = folder / "last.json"
    curve: list[float] = json.loads(state.read_text()) if state.exists() else []
    yield from (epoch_result(epoch, value) for epoch, value in enumerate(curve, start=1))
    for epoch in range(len(curve) + 1, EPOCHS + 1):
        curve.append(dice_after(config, epoch))
        write_text_atomically(state, json.dumps(curve))
        yield epoch_result(epoch, curve[-1])


def run_trial(conductor: Conductor, proposal: Proposal, folder: Path) -> None:
    for result in training(folder / str(proposal.number), proposal.config):
        if result.epoch == 3 and proposal.config.optim.lr > DIVERGES_ABOVE:
            conductor.finish(proposal.number, Outcome.DIVERGED)
            return
        if result.epoch <= proposal.known_epochs:
            continue
        if conductor.report(proposal.number, result) == Decision.STOP:
            return
    conductor.finish(proposal.number, Outcome.COMPLETED)


def run_search(folder: Path, space: SearchSpace) -> Asha:
    """Go on with the search in ``folder`` to its end; the rungs it ends with."""
    ledger = Ledger(f"sqlite:///{folder / 'study.db'}", "search", space, SamplerConfig(startup=3))
    scheduler = Asha(1, 3, EPOCHS)
    conductor = Conductor(ledger, space, scheduler, budget=BudgetConfig(trials=TRIALS), epochs=EPOCHS)
    while (proposal := conductor.next_trial()) is not None:
        run_trial(conductor, proposal, folder)
    return scheduler


def run_and_die(work: Callable[[], object], life_s: float) -> bool:
    """Do ``work`` in a forked process, which spares it the imports, and end it after so much processor time.

    The kernel ends it wherever it is, as kill -9 does; processor time is the same on a busy machine.

    Returns:
        Whether it was killed before it was done.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, life_s)
            work()
            code = 0
        finally:
            os._exit(code)  # no clean-up: the process is the parent's copy
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGPROF
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def children_s(work: Callable[[], object]) -> float:
    """Processor time that ``work`` takes in a forked process."""

    def used_s() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used_s()
    assert not run_and_die(work, life_s=600)
    return used_s() - before


def contents(folder: Path, space: SearchSpace) -> list[tuple[object, ...]]:
    ledger = Ledger(f"sqlite:///{folder / 'study.db'}", "search", space, SamplerConfig())
    return [(t.number, t.params, t.curve, t.outcome) for t in ledger.trials()]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.deep) for seed in (1, 2, 3, 4))])
def test_a_search_killed_at_random_instants_ends_as_an_uninterrupted_one(
    tmp_path: Path, space: SearchSpace, seed: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    whole_s = children_s(lambda: run_search(whole, space))
    rungs = run_search(whole, space).rungs
    open_s = children_s(lambda: run_search(whole, space))
    draw = random.Random(seed)
    kills = 0
    # Short lives, many of which end while the study is opened, and now and then a long one, so that it gets on.
    life_s = 0.25 * open_s + whole_s / (1.5 * KILLS)
    while run_and_die(lambda: run_search(killed, space), draw.expovariate(1 / life_s)):
        kills += 1
        assert kills < 20 * KILLS, "the search does not get on"
    assert run_search(killed, space).rungs == rungs
    assert contents(killed, space) == contents(whole, space)
    assert kills >= 20
    assert {outcome for *_, outcome in contents(whole, space)} >= {Outcome.COMPLETED, Outcome.PRUNED}
