"""What runs inside a worker: one training, driven epoch by epoch, kept in its own folder."""

import ctypes
import errno
import gc
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from ray import tune
from ray._raylet import setproctitle  # type: ignore[attr-defined]  # its stubs do not know it

from data_prep.cohort.normalisation import Normalisation
from data_prep.cohort.store import Store
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult, TrainingData, fit
from lcnn.training.folds import Begin, one_by_one, side_by_side
from search.execution.trial_name import trial_name
from search.placement.resources import Slots
from search.run.checkpoint_store import FILES, CheckpointStore, mirrored

OUTCOME_KEY = "outcome"
HALT_KEY = "halt"
"""Why no trial can go on at present; the trial itself is none the worse for it."""
PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when the one that started it ends."""


@dataclass(frozen=True)
class Fold:
    """Who trains and who validates in one fold."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    normalisation: Normalisation
    """Of the fold's own training patients."""


@dataclass(frozen=True)
class TrialContext:
    """What all trainings of a run share; small, for the cohort itself is mapped from disk by each worker."""

    folder: Path
    """Each training keeps its files in a folder below, named by its key."""
    store: Path
    train: tuple[str, ...]
    val: tuple[str, ...]
    """Patients to validate on; empty for final trainings."""
    normalisation: Normalisation
    slots: Slots
    checkpoints: str | None = None
    """Folder or URL to which trainings are mirrored; None: they work in ``folder`` itself."""
    folds: tuple[Fold, ...] = ()
    """Where there are some, a training is one a fold, each in a folder of its own below the training's."""
    fold_use: Literal["repeats", "fidelity"] = "repeats"

    def of_fold(self, number: int) -> "TrialContext":
        """The context of a single fold's trainings, counted from 0."""
        fold = self.folds[number]
        return replace(self, train=fold.train, val=fold.val, normalisation=fold.normalisation, folds=())

    @property
    def unfolded(self) -> "TrialContext":
        """The context of trainings on the split itself."""
        return replace(self, folds=())

    def data(self) -> TrainingData:
        """Open the store and pick the patients; test patients are not among them."""
        return TrainingData(Store.open(self.store), self.train, self.val, self.normalisation)


def start_training(
    context: TrialContext, key: str, config: TrainConfig, share: float, epochs: int | None = None
) -> Generator[EpochResult, None, Outcome]:
    """A training in this process, with the threads of its slot and this share of its pool's memory."""
    settle_process(context.slots.threads, context.slots.device)
    if context.slots.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(context.slots.allocator_share(share))
    if context.folds:
        return _over_folds(context, key, config, epochs)
    return _train(context, key, config, epochs)


def _train(
    context: TrialContext, key: str, config: TrainConfig, epochs: int | None
) -> Generator[EpochResult, None, Outcome]:
    data = context.data()
    return keep_training(
        context,
        key,
        lambda folder: fit(config, data, device=context.slots.device, folder=folder, epochs=epochs),
    )


def _over_folds(
    context: TrialContext, key: str, config: TrainConfig, steps: int | None
) -> Generator[EpochResult, None, Outcome]:
    """The folds' trainings as one; of a limit in steps, see `search.spec.settings.Spec.steps`."""
    count, full = len(context.folds), config.train.epochs

    def begin_with(settings: TrainConfig) -> Begin:
        return lambda fold, epochs: _train(context.of_fold(fold), f"{key}/fold-{fold}", settings, epochs)

    if context.fold_use == "fidelity":
        return one_by_one(begin_with(config), min(count, steps or count), full)
    # It is the mean of the folds that may stop early, not one of them.
    patient = config.model_copy(update={"train": config.train.model_copy(update={"early_stopping": full})})
    return side_by_side(begin_with(patient), count, min(full, steps or full), config.train.early_stopping)


def settle_process(threads: int, device: str) -> None:
    """Put torch's global settings where every training finds them, whatever ran in this process before.

    Random numbers are not among them: `lcnn.training.fit` seeds all that it draws from.
    """
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.benchmark = device == "cuda"


def end_with_node() -> None:
    """Have the kernel end this worker with the Ray node that started it, where the kernel can (Linux).

    By itself it would go on to the end of its epoch or stream, in the folder of the training that takes its place.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def keep_training(
    context: TrialContext, key: str, begin: Callable[[Path], Generator[EpochResult, None, Outcome]]
) -> Generator[EpochResult, None, Outcome]:
    """A training in its own folder, or in a scratch folder that is mirrored to the run's storage."""
    if context.checkpoints is None:
        return begin(context.folder / key)
    return mirrored(CheckpointStore(context.checkpoints), stored_as(context, key), begin)


def fetch_training(context: TrialContext, key: str, names: Sequence[str] = FILES) -> None:
    """Bring a training's files from the run's storage into its own folder, where there is a storage."""
    if context.checkpoints is not None:
        CheckpointStore(context.checkpoints).fetch(stored_as(context, key), context.folder / key, names)


def stored_as(context: TrialContext, key: str) -> str:
    """The training's name in the storage: run, kind, key, as in the results."""
    return f"{context.folder.parent.name}/{context.folder.name}/{key}"


def stream_training(
    context: TrialContext, key: str, config_json: str, share: float, epochs: int | None
) -> Iterator[dict[str, Any]]:
    """A training as a stream of plain results, the last of which holds the outcome; a Ray task."""
    end_with_node()
    config = TrainConfig.model_validate_json(config_json)
    training = start_training(context, key, config, share, epochs)
    while True:
        try:
            yield asdict(next(training))
        except StopIteration as end:
            yield {OUTCOME_KEY: end.value.value}
            return


class TrialActor(tune.Trainable):
    """A Ray worker that runs one trial after the other; one step is one epoch.

    Tune's own checkpoints are not used: the training keeps its state in its folder, and after a crash or a
    restart `fit` takes it up from there.
    """

    def setup(self, config: dict[str, Any], context: TrialContext) -> None:
        """Begin the trial that ``config`` describes (number, configuration, share of a pool, epochs already known)."""
        end_with_node()
        self._context = context
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._known_epochs = int(config["known_epochs"])
        settings = TrainConfig.model_validate_json(config["config"])
        self._name = trial_name(int(config["number"]), settings)
        self._training = self.start(str(config["number"]), settings, float(config["share"]))

    def start(self, key: str, config: TrainConfig, share: float) -> Generator[EpochResult, None, Outcome]:
        """The training to run."""
        return start_training(self._context, key, config, share)

    def step(self) -> dict[str, Any]:
        """The next epoch that the study does not know yet, or how the training ended."""
        # An actor keeps the name that it began with. Its process takes the trial's for as long as the task runs, after
        # which Ray names it again.
        setproctitle(f"ray::{self._name}")
        while True:
            try:
                result = next(self._training)
            except StopIteration as end:
                return {OUTCOME_KEY: end.value.value, "done": True}
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return {HALT_KEY: str(error), "done": True}
            if result.epoch > self._known_epochs:
                return asdict(result)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in the same process, which spares the start-up of a worker."""
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Let go of the training's memory."""
        self._training.close()
        gc.collect()  # networks refer to themselves in circles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
