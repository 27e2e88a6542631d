"""A server of Ray that dies while a trial runs ends the search's process, in one line; the trainings are a formula.

tests/e2e/test_adversity.py has the whole command, and that it goes on afterwards.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import children

HERE, ROOT = Path(__file__).parents[1], Path(__file__).parents[3]
LAST_S = 60.0
"""Longest time that the search may outlive a server; Ray itself gives up after about as long."""
STARTS_S = 100.0
SEARCH = """
import sys
from pathlib import Path
from quick import EPOCHS, KILLED, QuickActor, quick_context
from lcnn.config import TrainConfig
from search.execution.tune_search import ray_running, run_trials
from search.placement.resources import Slots
from search.spec.space import SearchSpace
from search.spec.settings import BudgetConfig, SamplerConfig
from search.study.conductor import Conductor
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import NoScheduler

folder = Path(sys.argv[1])
slots = Slots(1, 1, 0.0, 0, "cpu")
space = SearchSpace({"T": {"choice": [1, 2]}}, TrainConfig(), "file")
ledger = Ledger(f"sqlite:///{folder / 'study.db'}", "search", space, SamplerConfig(name="random"))
conductor = Conductor(ledger, space, NoScheduler(), budget=BudgetConfig(trials=2), epochs=EPOCHS)
with ray_running(slots, on_death=lambda why: print(why, file=sys.stderr, flush=True)):
    run_trials(conductor, quick_context(folder, slots, checkpoints=None), QuickActor)
"""
"""Its only slot's trial waits, after two epochs, for one beside it."""


@pytest.fixture
def searching(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A search in a process of its own, whose first trial has trained two epochs."""
    path = os.pathsep.join((str(ROOT), str(HERE)))
    process = subprocess.Popen(
        [sys.executable, "-c", SEARCH, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + STARTS_S
    diary = tmp_path / "trials" / "0.diary"
    while not (diary.exists() and len(diary.read_text().splitlines()) == 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no trial has begun"
        time.sleep(0.1)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("server", [pytest.param("raylet", marks=pytest.mark.deep), "gcs_server"])
def test_the_death_of_a_server_is_one_line(searching: subprocess.Popen[str], server: str) -> None:
    # Ours alone: others may run Ray on this machine.
    os.kill(children(searching.pid)[server], signal.SIGKILL)
    _, errors = searching.communicate(timeout=LAST_S)
    assert searching.returncode == 1
    assert f"Ray's {server} was ended by SIGKILL" in errors
    assert "then the same command goes on" in errors
    assert "Traceback" not in errors
