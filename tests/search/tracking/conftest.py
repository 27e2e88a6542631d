"""A finished run of a search whose trainings are a formula."""

import json
from pathlib import Path

import pytest
from curves import dice_after, epoch_result
from PIL import Image

from data_prep.cohort.split import Split
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult, history_csv
from search.run.evaluation import EVALUATION_FORMAT
from search.run.folder import RunFolder, run_folder, write_environment, write_spec
from search.run.study import open_ledger
from search.spec.settings import Overrides, load_spec
from search.spec.space import SearchSpace
from search.study.ledger import Ledger

SPACE_FILE = Path(__file__).parents[3] / "spaces" / "lcnn.yaml"
OUTCOMES = (Outcome.COMPLETED, Outcome.PRUNED, Outcome.DIVERGED, Outcome.CRASHED)
EPOCHS = 3


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Four trials that ended, each in another way, one that runs, and a test."""
    root = f"cohort.root={tmp_path / 'gone'}"
    spec = load_spec(SPACE_FILE, Overrides("cpu", (root,), name="study"), has_gpu=False)
    run = run_folder(tmp_path, spec)
    run.root.mkdir()
    write_spec(run, spec)
    write_environment(run)
    run.split.write_text(Split(cohort_hash="c0ffee", seed=0, train=("a",), val=("b",), test=("c",)).model_dump_json())
    space = SearchSpace(spec.search, spec.training, "file")
    ledger = open_ledger(run, spec, space)
    for outcome in OUTCOMES:
        finish_trial(ledger, space, run, outcome)
    ledger.draw_params(ledger.ask())
    run.overlays.mkdir()
    Image.new("RGB", (8, 8)).save(run.overlays / "best.png")
    dice = {"mean": 0.61, "low": 0.4, "high": 0.7, "patients": 7}
    figures = {"winner": 0, "cohort": "phantom (synthetic)", "synthetic": True, "models": {"winner": {"dice": dice}}}
    run.evaluation.write_text(json.dumps({**figures, "format": EVALUATION_FORMAT, "trials": 4}))
    return run


def finish_trial(ledger: Ledger, space: SearchSpace, run: RunFolder, outcome: Outcome) -> None:
    """Let a trial run and end; its history is an epoch ahead of the study, as after a kill."""
    number = ledger.ask()
    config = space.config(ledger.draw_params(number))
    history: list[EpochResult] = [epoch_result(epoch, dice_after(config, epoch)) for epoch in range(1, EPOCHS + 2)]
    for result in history[:EPOCHS]:
        ledger.record_epoch(number, result.epoch, result.val_dice or 0.0, float(result.epoch))
    ledger.finish(number, outcome, "the worker broke" if outcome == Outcome.CRASHED else None)
    folder = run.trials / str(number)
    folder.mkdir(parents=True)
    (folder / "history.csv").write_text(history_csv(history))
