"""optuna-dashboard on the study of a run: while it is written to, and after."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from curves import epoch_result

from lcnn.outcome import Outcome
from search.spec.settings import BudgetConfig
from search.spec.space import SearchSpace
from search.study.conductor import Conductor
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import NoScheduler

START_S = 60.0
FRESH_S = 60.0
"""It reads a study again after some seconds only."""


@contextmanager
def dashboard(study: Path) -> Iterator[Callable[[str], Any]]:
    """The command that the summary names; yields a way to ask it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), f"sqlite:///{study}", "--port", str(port)]

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=30) as answer:
            return json.load(answer)

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + START_S
            while not answers(ask):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield ask
        finally:
            process.terminate()


def answers(ask: Callable[[str], Any]) -> bool:
    try:
        ask("studies")
    except urllib.error.URLError:
        return False
    return True


def test_it_shows_a_study_that_is_being_written_and_a_finished_one(
    tmp_path: Path, open_ledger: Callable[..., Ledger], space: SearchSpace
) -> None:
    ledger = open_ledger()
    conductor = Conductor(ledger, space, NoScheduler(), budget=BudgetConfig(trials=2), epochs=2)
    with dashboard(tmp_path / "study.db") as ask:
        first = conductor.next_trial()
        assert first is not None
        conductor.report(first.number, epoch_result(1, 0.25))
        (study,) = ask("studies")["study_summaries"]
        assert study["study_name"] == "search"
        (trial,) = ask(f"studies/{study['study_id']}")["trials"]
        assert trial["state"] == "Running"
        assert [(entry["step"], entry["value"]) for entry in trial["intermediate_values"]] == [(1, 0.25)]
        conductor.report(first.number, epoch_result(2, 0.5))
        conductor.finish(first.number, Outcome.COMPLETED)
        deadline = time.monotonic() + FRESH_S
        while trial["state"] == "Running":
            assert time.monotonic() < deadline
            time.sleep(0.5)
            (trial,) = ask(f"studies/{study['study_id']}")["trials"]
        assert (trial["state"], trial["values"]) == ("Complete", [0.5])
