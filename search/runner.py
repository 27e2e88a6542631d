"""The stages of a run, in order: prepare, search, train finally, test, sum up. Each picks up where it stopped."""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from data_prep.errors import InputError
from lcnn.outcome import Outcome
from search.conductor import Conductor
from search.display import Display, SearchProgress, minutes, short_params
from search.final import (
    FinalJob,
    export_winner,
    final_job,
    save_overlays,
    summarise,
    test_models,
    train_final,
    write_evaluation,
    write_patients,
)
from search.ledger import DEFAULTS, Ledger, TrialRecord
from search.plan import Workload, describe_space, estimate_time
from search.prepare import PHANTOM_PREFIX, Prepared, cohort_root, prepare
from search.resources import Slots, this_machine
from search.run_folder import RunFolder, check_spec, write_environment, write_spec
from search.scheduler import build_scheduler, expected_epochs
from search.space import SearchSpace
from search.spec import Spec
from search.summary import closing_summary, estimate, write_trials_table
from search.trial import TrialContext

CACHE = ".cache"
"""Folder below the results where compiled cohorts are kept for all runs."""

# Ray reads these when it is imported: no reports home, no change of folder, no loggers a trial.
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
}


class SearchFailed(RuntimeError):
    """A search that ended without a single trial to go on with."""


def run_search(spec: Spec, where: str, results: Path, display: Display) -> None:
    """Run a space file's search to its evaluated end, or go on with one that was interrupted.

    Args:
        spec: the validated space file.
        where: its name, for messages.
        results: folder of all runs.
        display: where to report.

    Raises:
        InputError: something the user can mend.
        SearchFailed: no trial gave a value.
        KeyboardInterrupt: stopped from outside; everything so far is kept.
    """
    space = SearchSpace(spec.search, spec.defaults, where)
    cohort_root(spec.cohort)
    run = RunFolder(results / run_name(spec))
    with run.locked():
        resumed = check_spec(run, spec)
        if resumed and is_finished(spec, run, space):
            show_finished(run, open_ledger(run, spec, space), display)
            return
        slots = this_machine(spec.resources)
        announce(spec, run, slots, display, resumed=resumed)
        # The cohort comes first: where it is refused, no half-made run is left behind.
        prepared = prepare_cohort(spec, run, results, display)
        write_spec(run, spec)
        write_environment(run)
        display.log_to(run.root / "run.log")
        ledger = open_ledger(run, spec, space)
        context = trial_context(run, prepared, slots)
        with ray_running(slots):
            search(spec, space, ledger, context, display)
            write_trials_table(run.trials_table, ledger.trials())
            jobs = final_jobs(ledger, space)
            train(jobs, context, run, display)
        finish(spec, run, ledger, jobs, prepared, slots, display)


def open_ledger(run: RunFolder, spec: Spec, space: SearchSpace) -> Ledger:
    """The run's study."""
    return Ledger(run.study_url, "search", space, spec.sampler)


def show_finished(run: RunFolder, ledger: Ledger, display: Display) -> None:
    """The result of a run that has nothing left to do."""
    display.say(f"{run.root} is finished; nothing is run again. More trials: --trials {2 * len(ledger)}")
    display.say(closing_summary(run, ledger))


def run_name(spec: Spec) -> str:
    """Name of the run folder: the search and its profile."""
    return f"{spec.name}-{spec.profile}" if spec.profile else spec.name


def is_finished(spec: Spec, run: RunFolder, space: SearchSpace) -> bool:
    """Whether the run is evaluated and its search has nothing left to do."""
    return run.evaluation.exists() and is_searched(spec, open_ledger(run, spec, space))


def is_searched(spec: Spec, ledger: Ledger) -> bool:
    """Whether the search's budget is used up and no trial is open."""
    trials = ledger.trials()
    spent = len(trials) >= spec.budget.trials or _hours_left(spec, ledger) <= 0
    return spent and all(trial.outcome is not None for trial in trials)


def _hours_left(spec: Spec, ledger: Ledger) -> float:
    return math.inf if spec.budget.hours is None else spec.budget.hours - ledger.search_seconds / 3600


def announce(spec: Spec, run: RunFolder, slots: Slots, display: Display, *, resumed: bool) -> None:
    """Say what is about to happen, and on what."""
    root = cohort_root(spec.cohort)
    display.say(f"Run folder: {run.root}" + (" (resumed)" if resumed else ""))
    hardware = f"{slots.gpus} GPU" if slots.gpus else "no GPU found"
    display.say(f"Profile: {spec.profile or 'none'} ({hardware}); trials: {slots}")
    if root.name.startswith(PHANTOM_PREFIX):
        display.say(f"Cohort: no data in {spec.cohort.root}/, so the SYNTHETIC phantom cohort is used ({root})")
    else:
        display.say(f"Cohort: {root}")


def prepare_cohort(spec: Spec, run: RunFolder, results: Path, display: Display) -> Prepared:
    """Cohort, store and split, with progress."""
    prepared = prepare(spec.cohort, run, results / CACHE, display.progress)
    display.clear()
    split = prepared.split
    display.say(
        f"Split (locked, by patient): {len(split.train)} train, {len(split.val)} validation, {len(split.test)} test; "
        f"{prepared.cohort.slice_count} slices at {spec.cohort.image_size} pixels"
    )
    return prepared


def trial_context(run: RunFolder, prepared: Prepared, slots: Slots) -> TrialContext:
    """What trials may know; of the split, training and validation patients only."""
    return TrialContext(
        folder=run.trials.resolve(),
        store=prepared.store.folder.resolve(),
        train=prepared.split.train,
        val=prepared.split.val,
        normalisation=prepared.normalisation,
        slots=slots,
    )


@contextmanager
def ray_running(slots: Slots) -> Iterator[None]:
    """Ray on this machine for the length of the block."""
    os.environ.update(RAY_SETTINGS)
    # Imported here: importing Ray takes seconds, which --help and bad input need not wait for.
    import ray  # noqa: PLC0415

    from search.tune_search import start_ray  # noqa: PLC0415

    start_ray(slots)
    try:
        yield
    finally:
        ray.shutdown()


def search(spec: Spec, space: SearchSpace, ledger: Ledger, context: TrialContext, display: Display) -> None:
    """Run what is left of the search.

    Raises:
        SearchFailed: not one trial gave a value.
    """
    from search.tune_search import run_trials  # noqa: PLC0415

    if is_searched(spec, ledger):
        return
    records = ledger.trials()
    progress = SearchProgress(
        display,
        trials=spec.budget.trials,
        finished=sum(trial.outcome is not None for trial in records),
        best=max((trial.best for trial in records if trial.best is not None), default=None),
        expected_epochs=partial(expected_epochs, spec.scheduler, spec.train.epochs),
    )
    display.say(
        f"Searching: {spec.budget.trials} trials of at most {spec.train.epochs} epochs, trial 0 is the defaults"
    )
    deadline = time.monotonic() + _hours_left(spec, ledger) * 3600
    conductor = Conductor(
        ledger,
        space,
        build_scheduler(spec.scheduler, spec.train.epochs),
        trials=spec.budget.trials,
        epochs=spec.train.epochs,
        out_of_time=lambda: time.monotonic() >= deadline,
        on_event=progress,
    )
    started = time.monotonic()
    try:
        run_trials(conductor, context)
    finally:
        display.clear()
        ledger.add_search_seconds(time.monotonic() - started)
    if ledger.winner() is None:
        crashed = next((t.reason for t in ledger.trials() if t.outcome == Outcome.CRASHED), None)
        raise SearchFailed(f"no trial gave a value{f'; the first crash: {crashed}' if crashed else ''}")


def final_jobs(ledger: Ledger, space: SearchSpace) -> dict[str, FinalJob]:
    """The winner and, where they are another trial that trained, the defaults."""
    winner = ledger.winner()
    assert winner is not None
    roles: dict[str, TrialRecord] = {"winner": winner}
    if winner.number != DEFAULTS and ledger.trial(DEFAULTS).curve:
        roles["defaults"] = ledger.trial(DEFAULTS)
    return {role: final_job(trial, space) for role, trial in roles.items()}


def train(jobs: dict[str, FinalJob], context: TrialContext, run: RunFolder, display: Display) -> None:
    """Train every job on training and validation patients."""
    for role, job in jobs.items():
        display.say(
            f"Training the {role} (trial {job.number}) on training and validation patients for {job.epochs} epochs, "
            "its best by validation"
        )
    done = dict.fromkeys((job.number for job in jobs.values()), 0)
    total = sum(job.epochs for job in jobs.values())

    def on_epoch(job: FinalJob, epoch: int) -> None:
        done[job.number] = epoch
        display.progress("final training, epochs", sum(done.values()), total)

    final_context = TrialContext(**{**vars(context), "folder": run.final.resolve()})
    train_final(list(jobs.values()), final_context, on_epoch)
    display.clear()


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
    export_winner(run, jobs["winner"])
    display.say(f"Testing on {len(prepared.split.test)} patients that no trial has read")
    results = test_models(run, jobs, prepared, slots.device, reason=f"final evaluation of {', '.join(jobs)}")
    write_patients(run.patients, results)
    save_overlays(run.overlays, results["winner"], run.model / "model.pt", prepared)
    split = prepared.split
    write_evaluation(
        run.evaluation,
        {
            "cohort": prepared.cohort.name,
            "cohort_hash": prepared.cohort.hash,
            "synthetic": prepared.cohort.synthetic,
            "profile": spec.profile,
            "patients": {"train": len(split.train), "val": len(split.val), "test": len(split.test)},
            "winner": jobs["winner"].number,
            "epochs": {role: job.epochs for role, job in jobs.items()},
            **summarise(results),
        },
    )
    display.say(closing_summary(run, ledger))


def retrain(run_root: Path, number: int | None, results: Path, display: Display) -> None:
    """Train one trial of a run on all training patients and test it.

    Args:
        run_root: the run.
        number: the trial; None for the run's winner.
        results: folder of all runs, for the compiled cohort.
        display: where to report.

    Raises:
        InputError: no run, no such trial, or one without a value.
    """
    run = RunFolder(run_root)
    spec = run.read_spec()
    space = SearchSpace(spec.search, spec.defaults, str(run.spec))
    with run.locked():
        display.log_to(run.root / "run.log")
        ledger = open_ledger(run, spec, space)
        trial = pick_trial(run, ledger, number)
        job = final_job(trial, space)
        slots = this_machine(spec.resources)
        display.say(f"Trial {trial.number}: {short_params(trial.params)}")
        prepared = prepare_cohort(spec, run, results, display)
        jobs = {"trial": job}
        with ray_running(slots):
            train(jobs, trial_context(run, prepared, slots), run, display)
        tested = test_models(run, jobs, prepared, slots.device, reason=f"retraining of trial {job.number}")
    folder = run.final / str(job.number)
    write_patients(folder / "patients.csv", tested)
    save_overlays(folder / "overlays", tested["trial"], folder / "last.pt", prepared)
    summary = summarise(tested)
    write_evaluation(
        folder / "evaluation.json", {"trial": job.number, "synthetic": prepared.cohort.synthetic, **summary}
    )
    synthetic = " (SYNTHETIC cohort)" if prepared.cohort.synthetic else ""
    display.say(f"Trial {job.number}: test Dice {estimate(summary['models']['trial']['dice'])}{synthetic}")
    display.say(f"Model, figures and pictures: {folder}")


def pick_trial(run: RunFolder, ledger: Ledger, number: int | None) -> TrialRecord:
    """The trial to retrain.

    Raises:
        InputError: there is none of that number, or none that can be retrained.
    """
    usable = [t.number for t in ledger.trials() if t.curve and t.outcome in (Outcome.COMPLETED, Outcome.PRUNED)]
    if not usable:
        raise InputError(f"{run.root}: no finished trial to retrain; let the search go on first")
    if number is None:
        winner = ledger.winner()
        assert winner is not None
        return winner
    if number not in usable:
        shown = ", ".join(str(n) for n in usable[:20])
        raise InputError(f"--trial {number}: not a finished trial of {run.root}; choose from {shown}")
    return ledger.trial(number)


def dry_run(spec: Spec, where: str, results: Path, display: Display) -> None:
    """Validate, show the plan and estimate its time; nothing is written."""
    space = SearchSpace(spec.search, spec.defaults, where)
    slots = this_machine(spec.resources)
    root = cohort_root(spec.cohort)
    display.say(f"{where} is valid. Profile {spec.profile or 'none'}; run folder {results / run_name(spec)}")
    synthetic = root.name.startswith(PHANTOM_PREFIX)
    display.say(f"Cohort: {root}{' (synthetic, built on the first run)' if synthetic else ''}")
    display.say("Searched:")
    for line in describe_space(space):
        display.say(f"  {line}")
    load, source = workload(spec, root)
    estimated = estimate_time(spec, slots, load)
    display.say(
        f"Budget: {spec.budget.trials} trials, {slots}; about {estimated.trial_epochs:.1f} of "
        f"{spec.train.epochs} epochs a trial under {spec.scheduler.name}"
    )
    display.say(
        f"Estimate: {estimated.step_s * 1000:.0f} ms a step of {spec.train.batch_size} stacks (timed now, defaults), "
        f"{minutes(estimated.epoch_s)} an epoch ({load.train_stacks} stacks and {load.val_slices} validation slices, "
        f"{source}), {minutes(estimated.search_s)} of searching, {minutes(estimated.final_s)} of final training, "
        f"{minutes(estimated.total_s)} in all"
    )
    if slots.device == "cpu" and spec.profile == "gpu":
        display.say("Note: the gpu profile on a machine without a GPU")


def workload(spec: Spec, root: Path) -> tuple[Workload, str]:
    """Stacks and validation slices of an epoch, and where the figures come from."""
    slices, source = _slice_count(spec, root)
    # A quarter of the slices of a stroke cohort hold lesion, give or take; exact once the cohort is compiled.
    stacks = round(slices * spec.cohort.split.train * 0.25 / max(spec.train.lesion_share, 0.05))
    return Workload(spec.train.stacks_per_epoch or stacks, round(slices * spec.cohort.split.val)), source


def _slice_count(spec: Spec, root: Path) -> tuple[int, str]:
    if root.is_dir():
        folders: Sequence[Path] = [root / name for name in ("images", "image") if (root / name).is_dir()]
        return sum(1 for folder in folders for _ in folder.glob("*/*.*")), "from its file names"
    return 27 * spec.cohort.phantom.patients, "expected"
