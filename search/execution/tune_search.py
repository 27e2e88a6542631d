"""The adapter of Ray Tune: Tune executes, the Conductor decides. Tune places trials and moves results.

Tune asks its searcher for configurations and its scheduler for decisions; both pass the question on to the
`Conductor`. Tune's experiment state is thrown away: the study holds all there is to know.
"""

import logging
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any

import ray
from ray import tune
from ray._private.node import Node
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from data_prep.common.cli_errors import POLITE
from data_prep.common.errors import first_line, last_line
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult
from search.errors import RunFailed
from search.execution.session.cluster import join
from search.execution.session.dashboard import LOOPBACK
from search.execution.session.watch import watching
from search.execution.trial import HALT_KEY, OUTCOME_KEY, TrialActor, TrialContext
from search.execution.trial_name import trial_name
from search.placement.resources import Slots
from search.run.session import QUIET, RayView
from search.study.conductor import Conductor
from search.study.scheduling.schedulers import Decision

log = logging.getLogger(__name__)

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
}
"""No reports home, no change of folder, no loggers a trial, Ctrl-C left to us, one waiting trial."""
STARTS = 3
"""Times that a Ray which takes too long to start is started."""
EPOCH_KEYS = tuple(f.name for f in fields(EpochResult))


class _Stateless:
    """Tune pickles its parts to be able to restore them; here the study is the state, so they hold none."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(_Stateless, Searcher):
    """Hands the conductor's proposals to Tune while one more trial may fit.

    What a trial takes is known only once it is drawn. One that turns out too large for what is free waits with
    Tune, which has one trial wait at most, and is placed before any other is drawn: so none is starved by smaller
    ones, and the sampler is asked no earlier than it has to be.
    """

    def __init__(self, conductor: Conductor, slots: Slots) -> None:
        super().__init__()
        self._conductor, self._slots = conductor, slots
        self._shares: dict[str, float] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration, None while there is no room or nothing new, FINISHED at the end."""
        if not self._slots.has_room(self._shares.values()):
            return None
        proposal = self._conductor.next_trial()
        if proposal is None:
            # While something runs, its worker may still break, and then it has to be suggested once more.
            return None if self._shares else Searcher.FINISHED
        self._shares[trial_id] = proposal.share
        return {
            "number": proposal.number,
            "config": proposal.config.model_dump_json(),
            "share": proposal.share,
            "known_epochs": proposal.known_epochs,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Free the slot. How the trial ended, the scheduler's hooks have already recorded."""
        self._shares.pop(trial_id, None)

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
        if HALT_KEY in result:
            self._conductor.halt(result[HALT_KEY])
        if OUTCOME_KEY in result:
            self._conductor.finish(trial.config["number"], Outcome(result[OUTCOME_KEY]))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass a broken worker on. Tune itself retries nothing: it gives up trials that break while they start."""
        self._conductor.crash(trial.config["number"], last_line(trial.get_error() or RuntimeError("unknown")))


@contextmanager
def ray_running(
    slots: Slots,
    address: str | None = None,
    on_death: Callable[[str], None] = log.error,
    view: RayView = QUIET,
) -> Iterator[str | None]:
    """Ray for the length of the block: on this machine with just the slots' resources, or a cluster that runs.

    Where what was started here dies, so does this process: see `search.execution.session.watch`.

    Args:
        slots: what to start on this machine; a cluster has its own, see `search.execution.session.cluster.on_cluster`.
        address: of a cluster to join, as `search.execution.session.cluster.join` takes it; leaving the block
            disconnects.
        on_death: says why this process ends with Ray.
        view: what Ray is to show; a cluster has a dashboard of its own, or none.

    Yields:
        Host and port of the dashboard that was started; None where there is none.

    Raises:
        RunFailed: Ray does not start, with its reason.
        InputError: the cluster cannot be joined.
    """
    os.environ.update(RAY_SETTINGS)
    dashboard = None
    with _keeping_signals():
        if address is None:
            dashboard = _start_ray(slots, view)
        else:
            join(address, RAY_SETTINGS)
    try:
        # The servers of a cluster are not ours to watch.
        with watching(on_death) if address is None else nullcontext():
            yield dashboard
    finally:
        ray.shutdown()


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Put back what answers signals: Ray and Tune leave answers of their own, which end or do nothing, and not a word.

    While Tune runs, SIGUSR1 is its own, and ends `run_trials` after the results at hand.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *POLITE)}
    try:
        yield
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)


def _start_ray(slots: Slots, view: RayView) -> str | None:
    """Start Ray; its dashboard's host and port, if it has one.

    On a busy machine Ray's servers may take longer than the fixed time that Ray gives them, and less the next time.

    Raises:
        RunFailed: it does not start, after several tries where time was what it lacked.
    """
    started = 0
    while True:
        started += 1
        try:
            return _init_ray(slots, view)
        except (RuntimeError, OSError, ValueError) as error:
            raise RunFailed(f"Ray does not start: {first_line(error)}") from error
        except Exception as error:
            # Of being too slow Ray tells by a bare Exception, and by nothing narrower.
            if type(error) is not Exception:
                raise
            _end_half_started(error)
            if started == STARTS:
                raise RunFailed(
                    f"Ray does not start, tried {STARTS} times ({first_line(error)}); the machine is too busy or short "
                    "of memory: see what else runs on it, then the same command goes on"
                ) from error
            log.warning("Ray did not start in time; trying again")


def _init_ray(slots: Slots, view: RayView) -> str | None:
    started = ray.init(
        address="local",  # a cluster that happens to run here is not ours to use
        num_cpus=slots.at_once * slots.threads,
        num_gpus=slots.gpus,
        _memory=slots.ram_bytes,
        # Asked with None, Ray goes on without a dashboard that does not start; with True it does not start either.
        include_dashboard=None if view.dashboard else False,
        dashboard_host=LOOPBACK,
        log_to_driver=view.verbose,
        # Of a dashboard that does not start, `how_to_open` tells in one line; Ray does in twenty.
        logging_level=logging.INFO if view.verbose else logging.CRITICAL,
    )
    if not view.verbose:
        logging.getLogger("ray").setLevel(logging.ERROR)
    return started.dashboard_url or None if view.dashboard else None


def _end_half_started(error: BaseException) -> None:
    """End the servers of a Ray that broke off while it started; only the frames of its error still know them."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(node := frame.f_locals.get("self"), Node):
            node.kill_all_processes(check_alive=False, allow_graceful=False)


def run_trials(
    conductor: Conductor,
    context: TrialContext,
    actor: type[TrialActor] = TrialActor,
    verbose: bool = False,
) -> None:
    """Run the search on a started Ray until the conductor has no more trials.

    Args:
        conductor: says what is run.
        context: what all trials share.
        actor: what a worker does with a trial.
        verbose: shows what Tune writes.
    """
    slots = context.slots

    def demands(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([slots.demands(config["share"])])

    trainable = tune.with_resources(tune.with_parameters(actor, context=context), demands)
    trainable.__qualname__ = actor.__name__  # what the dashboard calls its class; Tune's own says nothing
    with tempfile.TemporaryDirectory(prefix="lcnn-search-") as scratch, _keeping_signals():
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(conductor, slots),
                scheduler=StudyScheduler(conductor),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_name,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="search",
                verbose=2 if verbose else 0,
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()


def _name(trial: Trial) -> str:
    return trial_name(trial.config["number"], TrainConfig.model_validate_json(trial.config["config"]))
