"""The stages of a run, in order: prepare, search, train finally, test, sum up. Each picks up where it stopped."""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from data_prep.errors import InputError, first_line
from data_prep.split import Normalisation
from lcnn.evaluation import summarise, write_evaluation, write_patients
from lcnn.model import build_model
from lcnn.model_file import load_model
from lcnn.outcome import Outcome
from lcnn.overlay import save_best_median_worst
from search.cluster import check_address, on_cluster
from search.conductor import MOST_CRASHES, Conductor, Event
from search.display import Display, SearchProgress
from search.errors import RunFailed
from search.final import FinalJob, export_winner, final_job, test_models, train_final
from search.ledger import DEFAULTS, Ledger
from search.prepare import Prepared, find_cohort, prepare
from search.resources import Slots, this_machine
from search.run_folder import RunFolder, check_spec, run_folder, write_environment, write_spec
from search.scheduler import build_scheduler, expected_epochs
from search.space import SearchSpace
from search.spec import Spec
from search.storage import CheckpointStore, StudyPlace, check_study_is_free, explaining_study, redact, study_place
from search.summary import closing_summary, write_trials_table
from search.trial import TrialContext
from search.tune_search import ray_running, run_trials

CACHE = ".cache"
"""Folder below the results where compiled cohorts are kept for all runs."""


def run_search(spec: Spec, where: str, results: Path, display: Display, address: str | None = None) -> None:
    """Run a space file's search to its evaluated end, or go on with one that was interrupted.

    Args:
        spec: the validated space file.
        where: its name, for messages.
        results: folder of all runs.
        display: where to report.
        address: of a Ray cluster to run on; None: this machine.

    Raises:
        InputError: something the user can mend.
        RunFailed: no trial gave a value, or the study's database broke off.
        KeyboardInterrupt: stopped from outside; everything so far is kept.
    """
    space = SearchSpace(spec.search, spec.defaults, where)
    find_cohort(spec.cohort)
    # Settings that no trial could build a network from are refused here, not by every trial.
    build_model(spec.defaults, Normalisation(mean=0.0, std=1.0))
    run = run_folder(results, spec)
    with run.locked():
        resumed = check_spec(run, spec)
        if resumed and is_finished(spec, run, space):
            show_finished(spec, run, open_ledger(run, spec, space), display)
            return
        if address is not None:
            check_address(address)
        check_storage(spec, run, resumed=resumed)
        slots = this_machine(spec.resources)
        announce(spec, run, slots, display, resumed=resumed)
        # The cohort comes first: where it is refused, no half-made run is left behind.
        prepared = prepare_cohort(spec, run, results, display)
        write_spec(run, spec)
        write_environment(run)
        display.log_to(run.root / "run.log")
        ledger = open_ledger(run, spec, space)
        context = trial_context(spec, run, prepared, slots)
        with ray_running(slots, address):
            if address is not None:
                context = on_cluster(context, spec.resources)
                display.say(f"Cluster at {address}; trials: {context.slots}")
            search(spec, space, ledger, context, display)
            write_trials_table(run.trials_table, ledger.trials())
            jobs = train_winner(run, ledger, space, context, display)
        finish(spec, run, ledger, jobs, prepared, slots, display)


def study_of(spec: Spec, run: RunFolder) -> StudyPlace:
    """Where the run's study lies.

    Raises:
        InputError: a database that cannot be used.
    """
    return study_place(run.root.resolve().name, run.study_url, spec.storage)


def check_storage(spec: Spec, run: RunFolder, *, resumed: bool) -> None:
    """See, before anything is done, that storage outside the run folder answers and is not another run's.

    Raises:
        InputError: it does not, or it is.
    """
    place = study_of(spec, run)
    store = CheckpointStore(spec.storage.checkpoints) if spec.storage.checkpoints else None
    if not resumed:
        check_study_is_free(place)
        if store is not None:
            store.check_is_free(run.root.resolve().name)


def open_ledger(run: RunFolder, spec: Spec, space: SearchSpace) -> Ledger:
    """The run's study.

    Raises:
        InputError: the file is damaged, locked, or no study; the database does not answer.
    """
    place = study_of(spec, run)
    if place.is_shared:
        with explaining_study(place):
            return Ledger(place.url, place.name, space, spec.sampler)
    try:
        return Ledger(place.url, place.name, space, spec.sampler)
    except (SQLAlchemyError, StorageInternalError) as error:
        raise InputError(f"{run.study}: not a readable study ({first_line(error)}); restore it from a copy") from error


def show_finished(spec: Spec, run: RunFolder, ledger: Ledger, display: Display) -> None:
    """The result of a run that has nothing left to do."""
    display.say(
        f"{run.root} is finished; nothing is run again. To extend it: --trials {2 * ledger.counted()}"
        + (f" --hours {2 * spec.budget.hours:g}" if spec.budget.hours else "")
    )
    display.say(closing_summary(run, ledger))


def is_finished(spec: Spec, run: RunFolder, space: SearchSpace) -> bool:
    """Whether the search has nothing left to do and the run's evaluation is of its winner."""
    if not run.evaluation.exists():
        return False
    ledger = open_ledger(run, spec, space)
    winner = ledger.winner()
    return is_searched(spec, ledger) and winner is not None and is_tested(run, final_job(winner, space))


def is_searched(spec: Spec, ledger: Ledger) -> bool:
    """Whether the search's budget is used up and no trial is open."""
    spent = ledger.counted() >= spec.budget.trials or _hours_left(spec, ledger) <= 0
    return spent and all(trial.outcome is not None for trial in ledger.trials())


def _hours_left(spec: Spec, ledger: Ledger) -> float:
    return math.inf if spec.budget.hours is None else spec.budget.hours - ledger.search_seconds / 3600


def announce(spec: Spec, run: RunFolder, slots: Slots, display: Display, *, resumed: bool) -> None:
    """Say what is about to happen, and on what."""
    place = find_cohort(spec.cohort)
    display.say(f"Run folder: {run.root}" + (" (resumed)" if resumed else ""))
    hardware = f"{slots.gpus} GPU" if slots.gpus else "no GPU found"
    display.say(f"Profile: {spec.profile or 'none'} ({hardware}); trials: {slots}")
    if place.is_phantom:
        display.say(f"Cohort: no data in {spec.cohort.root}/, so the SYNTHETIC phantom cohort is used ({place.root})")
    else:
        display.say(f"Cohort: {place.root}")


def prepare_cohort(spec: Spec, run: RunFolder, results: Path, display: Display) -> Prepared:
    """Cohort, store and split, with progress."""
    prepared = prepare(spec.cohort, run, results / CACHE, display.progress)
    display.clear()
    split = prepared.split
    display.say(
        f"Split (locked, by patient): {len(split.train)} train, {len(split.val)} validation, {len(split.test)} test; "
        f"{prepared.data.cohort.slice_count} slices at {spec.cohort.image_size} pixels"
    )
    return prepared


def trial_context(spec: Spec, run: RunFolder, prepared: Prepared, slots: Slots) -> TrialContext:
    """What trials may know; of the split, training and validation patients only."""
    return TrialContext(
        folder=run.trials.resolve(),
        store=prepared.data.store.folder.resolve(),
        train=prepared.split.train,
        val=prepared.split.val,
        normalisation=prepared.normalisation,
        slots=slots,
        checkpoints=spec.storage.checkpoints,
    )


def search(spec: Spec, space: SearchSpace, ledger: Ledger, context: TrialContext, display: Display) -> None:
    """Run what is left of the search.

    Raises:
        RunFailed: not one trial gave a value, or the study's database broke off.
    """
    if not is_searched(spec, ledger):
        try:
            _search(spec, space, ledger, context, display)
        except (SQLAlchemyError, StorageInternalError) as error:
            reason = redact(first_line(error.__cause__ or error))
            raise RunFailed(f"the study broke off ({reason}); mend it, then the same command goes on") from error
    if not is_searched(spec, ledger):
        crash = next((t.reason for t in reversed(ledger.trials()) if t.outcome == Outcome.CRASHED), None)
        if crash is None:
            raise KeyboardInterrupt  # Tune was asked to stop from outside
        raise RunFailed(f"{MOST_CRASHES} trials crashed in a row ({crash}); mend it, then the same command goes on")
    if ledger.winner() is None:
        counts = Counter(trial.outcome.value for trial in ledger.trials() if trial.outcome)
        ends = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        raise RunFailed(f"no trial gave a value ({ends}); see run.log, and start anew with other settings and --name")


def _search(spec: Spec, space: SearchSpace, ledger: Ledger, context: TrialContext, display: Display) -> None:
    records = ledger.trials()
    progress = SearchProgress(
        display,
        trials=spec.budget.trials,
        finished=sum(trial.outcome not in (None, Outcome.CRASHED) for trial in records),
        best=max((trial.best for trial in records if trial.best is not None), default=None),
        expected_epochs=partial(expected_epochs, spec.scheduler, spec.train.epochs),
    )
    display.say(
        f"Searching: {spec.budget.trials} trials of at most {spec.train.epochs} epochs, trial 0 is the defaults"
    )
    deadline = time.monotonic() + _hours_left(spec, ledger) * 3600
    stopwatch = Stopwatch(ledger)

    def on_event(event: Event) -> None:
        stopwatch.keep()
        progress(event)

    conductor = Conductor(
        ledger,
        space,
        build_scheduler(spec.scheduler, spec.train.epochs),
        trials=spec.budget.trials,
        epochs=spec.train.epochs,
        out_of_time=lambda: time.monotonic() >= deadline,
        on_event=on_event,
    )
    try:
        run_trials(conductor, context)
    finally:
        display.clear()
        stopwatch.keep()


class Stopwatch:
    """Adds the time since it was last asked to the study, so that a hard kill loses at most one epoch of it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._last = ledger, time.monotonic()

    def keep(self) -> None:
        """Add the time that has gone by."""
        now = time.monotonic()
        self._ledger.add_search_seconds(now - self._last)
        self._last = now


def train_winner(
    run: RunFolder, ledger: Ledger, space: SearchSpace, context: TrialContext, display: Display
) -> dict[str, FinalJob]:
    """Train the winner and, beside it, the defaults on training and validation patients.

    Where the winner does not train again, the next best takes its place; defaults that do not are left out.

    Returns:
        What was trained, by role (winner, defaults).

    Raises:
        RunFailed: no trial trained again.
    """
    failed: set[int] = set()
    while (winner := ledger.winner(without=failed)) is not None:
        roles = {"winner": winner}
        defaults = ledger.trial(DEFAULTS)
        if DEFAULTS not in failed | {winner.number} and defaults.is_usable:
            roles["defaults"] = defaults
        jobs = {role: final_job(trial, space) for role, trial in roles.items()}
        outcomes = train(jobs, context, run, display)
        for role, job in jobs.items():
            if outcomes[job.number] != Outcome.COMPLETED:
                display.say(f"The final training of the {role} (trial {job.number}) ended {outcomes[job.number]}")
                failed.add(job.number)
        if winner.number not in failed:
            return {role: job for role, job in jobs.items() if job.number not in failed}
    raise RunFailed(f"no final training completed; see {run.final}")


def train(jobs: Mapping[str, FinalJob], context: TrialContext, run: RunFolder, display: Display) -> dict[int, Outcome]:
    """Train every job on training and validation patients; how each ended, by number."""
    for role, job in jobs.items():
        display.say(
            f"Training the {role} (trial {job.number}) on training and validation patients "
            f"for {job.epochs} epochs, its best by validation"
        )
    done = dict.fromkeys((job.number for job in jobs.values()), 0)
    total = sum(job.epochs for job in jobs.values())

    def on_epoch(job: FinalJob, epoch: int) -> None:
        done[job.number] = epoch
        display.progress("final training, epochs", sum(done.values()), total)

    try:
        return train_final(list(jobs.values()), replace(context, folder=run.final.resolve()), on_epoch)
    finally:
        display.clear()


def is_tested(run: RunFolder, winner: FinalJob) -> bool:
    """Whether the run's evaluation is of this very training."""
    if not run.evaluation.exists():
        return False
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    return (evaluation["winner"], evaluation["epochs"]["winner"]) == (winner.number, winner.epochs)


def finish(
    spec: Spec,
    run: RunFolder,
    ledger: Ledger,
    jobs: dict[str, FinalJob],
    prepared: Prepared,
    slots: Slots,
    display: Display,
) -> None:
    """Export the winner, test, and sum up."""
    if is_tested(run, jobs["winner"]):
        display.say("The winner is the one that was tested before; the test patients are not opened again")
        display.say(closing_summary(run, ledger))
        return
    export_winner(run, jobs["winner"])
    display.say(f"Testing on {len(prepared.split.test)} patients that no trial has read")
    results = test_models(run, jobs, prepared, slots.device, reason=f"final evaluation of {', '.join(jobs)}")
    write_patients(run.patients, results)
    model = load_model(run.model / "model.pt", slots.device)
    save_best_median_worst(run.overlays, results["winner"], model, prepared.data.cohort, prepared.data.root)
    split = prepared.split
    write_evaluation(
        run.evaluation,
        {
            "cohort": prepared.data.cohort.name,
            "cohort_hash": prepared.data.cohort.hash,
            "synthetic": prepared.data.cohort.synthetic,
            "profile": spec.profile,
            "patients": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
            "winner": jobs["winner"].number,
            "epochs": {role: job.epochs for role, job in jobs.items()},
            **summarise(results),
        },
    )
    display.say(closing_summary(run, ledger))
