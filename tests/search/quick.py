"""A training from a formula that keeps its state in its folder as the real one does, for workers of a real Ray."""

import json
import time
from collections.abc import Generator
from pathlib import Path

import ray
from curves import dice_after, epoch_result

from data_prep.cohort.normalisation import Normalisation
from data_prep.common.files import write_text_atomically
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult
from search.execution.trial import TrialActor, TrialContext, keep_training
from search.placement.resources import Slots
from search.study.ledger import DEFAULTS

EPOCHS = 9
PAUSE_S = 0.03
TOGETHER = 2
DOOMED = 5
"""Epoch of the defaults before which their node is killed."""
KILLED = "killed"
"""File beside the diaries that names the killed node."""


def quick_training(folder: Path, config: TrainConfig, diary: Path) -> Generator[EpochResult, None, Outcome]:
    """Epochs that are done are told again; each new one leaves a line with its node in the diary.

    Workers start one after the other, so the third epoch waits until two trainings have begun. The defaults' fifth
    epoch waits for the end of the node they are on: a worker may outlive its node by more than a few quick epochs.
    """
    state = folder / "last.pt"
    curve: list[float] = json.loads(state.read_text()) if state.exists() else []
    yield from (epoch_result(epoch, value) for epoch, value in enumerate(curve, start=1))
    for epoch in range(len(curve) + 1, EPOCHS + 1):
        time.sleep(PAUSE_S)
        while epoch == 3 and len(list(diary.parent.glob("*.diary"))) < TOGETHER:
            time.sleep(PAUSE_S)
        while epoch == DOOMED and diary.stem == str(DEFAULTS) and is_doomed(diary.parent):
            time.sleep(PAUSE_S)
        curve.append(dice_after(config, epoch))
        with diary.open("a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()} {epoch}\n")
        write_text_atomically(state, json.dumps(curve))
        yield epoch_result(epoch, curve[-1])
    return Outcome.COMPLETED


def is_doomed(folder: Path) -> bool:
    """Whether no node has been killed yet, or it is this one."""
    killed = folder / KILLED
    return not killed.exists() or killed.read_text() == ray.get_runtime_context().get_node_id()


class QuickActor(TrialActor):
    """Runs quick trainings where the real actor runs real ones."""

    def start(self, key: str, config: TrainConfig, share: float) -> Generator[EpochResult, None, Outcome]:
        diary = self._context.folder / f"{key}.diary"
        return keep_training(self._context, key, lambda folder: quick_training(folder, config, diary))


def quick_context(run: Path, slots: Slots, checkpoints: str | None) -> TrialContext:
    """A context without a cohort."""
    trials = run / "trials"
    trials.mkdir(parents=True)
    return TrialContext(trials, run / "store", (), (), Normalisation(mean=0.0, std=1.0), slots, checkpoints)


def read_diary(context: TrialContext, number: int) -> list[tuple[str, int]]:
    """Node and epoch of every epoch that was trained of a trial, in order."""
    lines = (context.folder / f"{number}.diary").read_text().splitlines()
    return [(node, int(epoch)) for node, epoch in (line.split() for line in lines)]
