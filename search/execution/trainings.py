"""Whole trainings side by side on Ray, outside the search: for confirmation, final models and replays.

Each keeps its state in a folder of its own and goes on from there when the same command runs again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray

from data_prep.common.errors import last_line
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.errors import RunFailed
from search.execution.trial import OUTCOME_KEY, TrialContext, stream_training
from search.study.conductor import CRASH_RETRIES


@dataclass(frozen=True)
class Training:
    """One training to run."""

    key: str
    """Name of its folder below the context's."""
    config: TrainConfig
    epochs: int
    fold: int | None = None
    """The fold that it trains and validates on, from 0; None: what the context says."""


@dataclass(frozen=True)
class Trained:
    """How a training went."""

    outcome: Outcome
    curve: tuple[float | None, ...]
    """Validation Dice after every epoch; None where there are no validation patients."""

    @property
    def best(self) -> float | None:
        """Best value of the curve."""
        return max((value for value in self.curve if value is not None), default=None)

    @property
    def best_epoch(self) -> int | None:
        """First epoch that reached the best value, from 1."""
        return None if self.best is None else self.curve.index(self.best) + 1


def run_trainings(
    trainings: Sequence[Training], context: TrialContext, on_epoch: Callable[[int], None]
) -> dict[str, Trained]:
    """Run trainings side by side on a started Ray, as many as it has room for.

    Args:
        trainings: what to train.
        context: what they may know.
        on_epoch: called with the number of epochs done by all of them together.

    Returns:
        How each went, by key.

    Raises:
        RunFailed: a worker broke more often than it is retried.
    """
    streams = {
        start_stream(training, context, _share(training, context), CRASH_RETRIES): training for training in trainings
    }
    curves: dict[str, dict[int, float | None]] = {training.key: {} for training in trainings}
    done: dict[str, Trained] = {}
    while streams:
        (stream, *_), _ = ray.wait(list(streams), num_returns=1)
        key = streams[stream].key
        try:
            result = ray.get(next(stream))
        except ray.exceptions.RayError as error:
            raise RunFailed(f"training {context.folder.name}/{key} broke off ({last_line(error)})") from error
        if OUTCOME_KEY in result:
            curve = curves[key]
            done[key] = Trained(Outcome(result[OUTCOME_KEY]), tuple(curve[epoch] for epoch in sorted(curve)))
            del streams[stream]
        else:
            # By epoch: a task that is retried tells its first epochs again.
            curves[key][result["epoch"]] = result["val_dice"]
            on_epoch(sum(map(len, curves.values())))
    return done


def _share(training: Training, context: TrialContext) -> float:
    placement = context.slots.place(training.config, training.config.train.accumulation)
    return placement.share if placement else 1.0


def start_stream(training: Training, context: TrialContext, share: float, retries: int) -> ray.ObjectRefGenerator:
    """Start a training as a stream of plain results (`search.execution.trial.stream_training`).

    Args:
        training: what to train.
        context: what it may know.
        share: of a pool, which is reserved for it.
        retries: times that Ray starts it again where its worker breaks.
    """
    if training.fold is not None:
        context = context.of_fold(training.fold)
    demands = context.slots.demands(share)
    task = ray.remote(stream_training).options(
        name=f"{context.folder.name}/{training.key}",  # in the dashboard
        num_returns="streaming",
        num_cpus=demands["CPU"],
        num_gpus=demands.get("GPU", 0),
        memory=demands.get("memory"),
        max_retries=retries,
    )
    return task.remote(context, training.key, training.config.model_dump_json(), share, training.epochs)
