"""Ray Tune as the muscle of a search: it places trials, moves results, retries crashes and decides nothing.

Tune asks its searcher for configurations and its scheduler for decisions; both pass the question on to the
`Conductor`. Tune's experiment state is thrown away: the study holds all there is to know.
"""

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from data_prep.errors import first_line, last_line
from lcnn.fit import EpochResult
from lcnn.outcome import Outcome
from search.cluster import join
from search.conductor import Conductor
from search.errors import RunFailed
from search.resources import Slots
from search.scheduler import Decision
from search.trial import OUTCOME_KEY, TrialActor, TrialContext

CRASH_RETRIES = 2
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
}
"""No reports home, no change of folder, no loggers a trial, Ctrl-C left to us."""
EPOCH_KEYS = tuple(f.name for f in fields(EpochResult))


class _Stateless:
    """Tune pickles its parts to be able to restore them; here the study is the state, so they hold none."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(_Stateless, Searcher):
    """Hands the conductor's proposals to Tune, as many at a time as there are slots."""

    def __init__(self, conductor: Conductor, at_once: int) -> None:
        super().__init__()
        self._conductor, self._at_once = conductor, at_once
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration, None while all slots are taken, FINISHED at the end."""
        if len(self._numbers) >= self._at_once:
            return None
        proposal = self._conductor.next_trial()
        if proposal is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = proposal.number
        return {
            "number": proposal.number,
            "config": proposal.config.model_dump_json(),
            "known_epochs": proposal.known_epochs,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Free the slot. How the trial ended, the scheduler's hooks have already recorded."""
        self._numbers.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state."""


class StudyScheduler(_Stateless, FIFOScheduler):
    """Passes results to the conductor and its decisions to Tune."""

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self._conductor = conductor

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Record the epoch, then answer."""
        epoch = EpochResult(**{key: result[key] for key in EPOCH_KEYS})
        decision = self._conductor.report(trial.config["number"], epoch)
        return TrialScheduler.STOP if decision == Decision.STOP else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Record the outcome that the training itself gave; a trial that was pruned is already recorded."""
        if OUTCOME_KEY in result:
            self._conductor.finish(trial.config["number"], Outcome(result[OUTCOME_KEY]))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Record a trial whose retries are used up; Tune tells of those failures too that it retries."""
        if trial.should_recover() and trial.status != Trial.PENDING:
            return
        reason = last_line(trial.get_error() or RuntimeError("unknown"))
        self._conductor.finish(trial.config["number"], Outcome.CRASHED, reason)


@contextmanager
def ray_running(slots: Slots, address: str | None = None) -> Iterator[None]:
    """Ray for the length of the block: on this machine with just the slots' resources, or a cluster that runs.

    Args:
        slots: what to start on this machine; a cluster has its own, see `search.cluster.on_cluster`.
        address: of a cluster to join, as `search.cluster.join` takes it; leaving the block only disconnects.

    Raises:
        RunFailed: Ray does not start, with its reason.
        InputError: the cluster cannot be joined.
    """
    os.environ.update(RAY_SETTINGS)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address is None:
        _start_ray(slots)
    else:
        join(address, RAY_SETTINGS)
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray put its own in place, which exits without a word
    try:
        yield
    finally:
        ray.shutdown()


def _start_ray(slots: Slots) -> None:
    try:
        ray.init(
            address="local",  # a cluster that happens to run here is not ours to use
            num_cpus=slots.at_once * slots.threads,
            num_gpus=slots.gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise RunFailed(f"Ray does not start: {first_line(error)}") from error


def run_trials(conductor: Conductor, context: TrialContext, trainable: type[TrialActor] = TrialActor) -> None:
    """Run the search on a started Ray until the conductor has no more trials.

    Args:
        conductor: says what is run.
        context: what all trials share.
        trainable: what a worker does with a trial.
    """
    slots = context.slots
    actor = tune.with_resources(
        tune.with_parameters(trainable, context=context), {"cpu": slots.threads, "gpu": slots.gpu_share}
    )
    with tempfile.TemporaryDirectory(prefix="lcnn-search-") as scratch:
        tune.Tuner(
            actor,
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(conductor, slots.at_once),
                scheduler=StudyScheduler(conductor),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="search",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=CRASH_RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
