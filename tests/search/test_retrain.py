"""Which trial is trained again; that it is, tests/e2e shows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.common.errors import InputError
from lcnn.outcome import Outcome
from search.commands.retrain import pick_trial
from search.run.folder import RunFolder
from search.study.ledger import Ledger


def test_a_search_without_a_test_has_no_winner_to_retrain(tmp_path: Path, open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger()
    for value in (0.2, 0.4):
        number = ledger.ask()
        ledger.draw_params(number)
        ledger.record_epoch(number, 1, value, 1.0)
        ledger.finish(number, Outcome.COMPLETED)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match=r"no winner yet.* \(--trial 1 is the best so far, unconfirmed\)"):
        pick_trial(run, ledger, None)
    assert pick_trial(run, ledger, 0).number == 0
