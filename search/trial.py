"""What runs inside a worker: one training, driven epoch by epoch, kept in its own folder."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from data_prep.split import Normalisation
from data_prep.store import Store
from lcnn.config import TrainConfig
from lcnn.fit import EpochResult, TrainingData, fit
from lcnn.outcome import Outcome
from search.resources import Slots
from search.storage import CheckpointStore, mirrored

OUTCOME_KEY = "outcome"
ALLOCATOR_SHARE = 0.9


@dataclass(frozen=True)
class TrialContext:
    """What all trainings of a run share; small, for the cohort itself is mapped from disk by each worker."""

    folder: Path
    """Each training keeps its files in a folder below, named by its number."""
    store: Path
    train: tuple[str, ...]
    val: tuple[str, ...]
    """Patients to validate on; empty for final trainings."""
    normalisation: Normalisation
    slots: Slots
    checkpoints: str | None = None
    """Folder or URL to which trainings are mirrored; None: they work in ``folder`` itself."""

    def data(self) -> TrainingData:
        """Open the store and pick the patients; test patients are not among them."""
        return TrainingData(Store.open(self.store), self.train, self.val, self.normalisation)


def start_training(
    context: TrialContext, number: int, config: TrainConfig, epochs: int | None = None
) -> Generator[EpochResult, None, Outcome]:
    """A training in this process, with the threads and the share of GPU memory that its slot grants."""
    torch.set_num_threads(context.slots.threads)
    if context.slots.gpu_share:
        torch.backends.cudnn.benchmark = True
        # The share is of the allocator's memory only: the CUDA context and cuBLAS's workspaces come on top.
        torch.cuda.set_per_process_memory_fraction(ALLOCATOR_SHARE * context.slots.gpu_share)
    data = context.data()
    return keep_training(
        context,
        number,
        lambda folder: fit(config, data, device=context.slots.device, folder=folder, epochs=epochs),
    )


def keep_training(
    context: TrialContext, number: int, begin: Callable[[Path], Generator[EpochResult, None, Outcome]]
) -> Generator[EpochResult, None, Outcome]:
    """A training in its own folder, or in a scratch folder that is mirrored to the run's storage."""
    if context.checkpoints is None:
        return begin(context.folder / str(number))
    return mirrored(CheckpointStore(context.checkpoints), _key(context, number), begin)


def fetch_training(context: TrialContext, number: int) -> None:
    """Bring a training's files from the run's storage into its own folder, where there is a storage."""
    if context.checkpoints is not None:
        CheckpointStore(context.checkpoints).fetch(_key(context, number), context.folder / str(number))


def _key(context: TrialContext, number: int) -> str:
    """The training's name in the storage: run, kind, number, as in the results."""
    return f"{context.folder.parent.name}/{context.folder.name}/{number}"


def stream_training(
    context: TrialContext, number: int, config_json: str, epochs: int | None
) -> Iterator[dict[str, Any]]:
    """A training as a stream of plain results, the last of which holds the outcome; a Ray task."""
    config = TrainConfig.model_validate_json(config_json)
    training = start_training(context, number, config, epochs)
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
        """Begin the trial that ``config`` describes (number, configuration, epochs already known)."""
        self._context = context
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._known_epochs = int(config["known_epochs"])
        settings = TrainConfig.model_validate_json(config["config"])
        self._training = self.start(int(config["number"]), settings)

    def start(self, number: int, config: TrainConfig) -> Generator[EpochResult, None, Outcome]:
        """The training to run."""
        return start_training(self._context, number, config)

    def step(self) -> dict[str, Any]:
        """The next epoch that the study does not know yet, or how the training ended."""
        while True:
            try:
                result = next(self._training)
            except StopIteration as end:
                return {OUTCOME_KEY: end.value.value, "done": True}
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
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
