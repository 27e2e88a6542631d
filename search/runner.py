"""The stages of a run, in order: prepare, search, train finally, test, sum up. Each picks up where it stopped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.cohort.split import PARTS, training_normalisation
from data_prep.common.errors import InputError, first_line
from data_prep.intensity.window import in_words
from lcnn.scoring.evaluation import summarise, write_evaluation
from search.console.display import Display
from search.execution.measuring.slots import measured_slots, slots_measured_there
from search.execution.searching import limit_reached, search
from search.execution.session.cluster import check_address, on_cluster
from search.execution.session.dashboard import QUIET, RayView, how_to_open
from search.execution.trial import Fold, TrialContext
from search.execution.tune_search import ray_running
from search.placement.resources import Slots, this_machine, thread_warning
from search.report.page import write_report
from search.report.summary import closing_summary, leak_in_words, write_front, write_trials_table
from search.run.checks import Asked, check_cohort_and_network, check_run
from search.run.folder import RunFolder, run_folder, write_environment, write_spec
from search.run.prepare import CACHE, Prepared, find_cohort, prepare
from search.run.storage import CheckpointStore
from search.run.study import open_ledger
from search.spec.settings import Extension, Spec
from search.study.budget.extension import NO_POINT_LEFT, extended_budget
from search.study.budget.limits import Limit, Tally
from search.study.ledger import Ledger
from search.study.objectives.pareto import cost_of, front_summary
from search.study.warm_start import WarmStart
from search.tracking.tensorboard import write_tensorboard, write_trial
from search.winner.confirm import Confirmed, confirmation_summary, validation_dice
from search.winner.final import FinalJob, export_winner, overtuning, test_models
from search.winner.finalists import finalists, train_winner

EVALUATION_FORMAT = 2
"""Rises whenever evaluation.json gets figures that the summary cannot do without."""


def run_search(
    spec: Spec,
    where: str,
    results: Path,
    display: Display,
    *,
    extension: Extension,
    warm_start: str | None = None,
    address: str | None = None,
    view: RayView = QUIET,
) -> None:
    """Run a space file's search to its evaluated end, or go on with one that was interrupted.

    Args:
        spec: the validated space file.
        where: its name, for messages.
        results: folder of all runs.
        display: where to report.
        extension: what a finished run gets on top.
        warm_start: another run, whose best settings are tried right after the defaults.
        address: of a Ray cluster to run on; None: this machine.
        view: what Ray is to show; of a cluster, its own dashboard is there or not.

    Raises:
        InputError: something the user can mend.
        RunFailed: no trial gave a value, or the study's database broke off.
        KeyboardInterrupt: stopped from outside; everything so far is kept.
    """
    space = spec.space(where)
    run = run_folder(results, spec)
    check_cohort_and_network(spec)
    with run.locked():
        asked = Asked(bool(extension), warm_start, address)
        resumed, warm = check_run(spec, space, run, asked)
        if resumed:
            ledger = open_ledger(run, spec, space)
            if extension:
                spec = extended(spec, run, ledger, extension, display)
            if is_finished(spec, run, ledger):
                show_finished(spec, run, ledger, display)
                return
        if address is not None:
            check_address(address)
        if not resumed and spec.storage.checkpoints:
            CheckpointStore(spec.storage.checkpoints).check_is_free(run.root.resolve().name)
        slots = this_machine(spec.resources)
        announce(spec, run, slots, display, resumed=resumed)
        if address is None and (warning := thread_warning(spec.resources)):
            display.say(warning)
        # The cohort comes first: where it is refused, no half-made run is left behind.
        prepared = prepare_cohort(spec, run, results, display)
        write_spec(run, spec)
        write_environment(run)
        display.log_to(run.root / "run.log")
        if not resumed:
            ledger = open_ledger(run, spec, space)
        if warm:
            start_warm(ledger, warm, display)
        if address is None:
            slots = measured_slots(spec, space, slots, run.memory, display)
        context = trial_context(spec, run, prepared, slots)
        with ray_running(slots, address, display.failed, view) as dashboard:
            if address is None and view.dashboard:
                display.say(how_to_open(dashboard))
            if address is not None:
                display.say(f"Cluster at {address}")
                context = on_cluster(context, spec.resources)
                context = replace(context, slots=slots_measured_there(spec, space, context.slots, run.memory, display))
            search(spec, space, ledger, context, display, view, partial(write_trial, run))
            write_trials(run, spec, ledger)
            ranked, confirmation = finalists(spec, run, ledger, space, context, display)
            jobs = train_winner(ranked, run, space, context, display)
        finish(spec, run, ledger, jobs, confirmation, prepared, slots, display)


def start_warm(ledger: Ledger, warm: WarmStart, display: Display) -> None:
    """Line up another run's best settings behind the defaults, and say which of them do not fit."""
    new = ledger.warm_start(warm.points)
    display.say(f"Warm start: {new} of the other run's best {len(warm.points) + len(warm.refused)} settings come next")
    for refusal in warm.refused:
        display.say(f"  left out: {refusal}")


def write_trials(run: RunFolder, spec: Spec, ledger: Ledger) -> None:
    """The study as tables."""
    trials = ledger.trials()
    write_trials_table(run.trials_table, trials)
    if cost := cost_of(spec.objective):
        write_front(run.pareto, trials, cost)


def show_finished(spec: Spec, run: RunFolder, ledger: Ledger, display: Display) -> None:
    """The result of a run that has nothing left to do."""
    limit = limit_reached(spec, ledger)
    display.say(f"{run.root} is finished ({limit}); nothing is run again. {how_to_extend(limit, ledger)}")
    if not run.report.exists():
        write_tensorboard(run, ledger.trials())
    write_report(run, ledger)
    display.say(closing_summary(run, ledger))


def how_to_extend(limit: Limit | None, ledger: Ledger) -> str:
    """What to do where a finished search is not enough.

    Args:
        limit: what ended it.
        ledger: its study.
    """
    if ledger.is_exhausted():
        return NO_POINT_LEFT.capitalize()
    target = "; with it --set budget.target=null, or a higher one" if limit == Limit.TARGET else ""
    return f"To extend it: --trials +{len(ledger)} or --hours +1{target}"


def extended(spec: Spec, run: RunFolder, ledger: Ledger, extension: Extension, display: Display) -> Spec:
    """The spec with the budget that a finished run gets; an unfinished run goes on to the budget that it has.

    So the same command can be given again after an interruption without extending the run twice.

    Raises:
        InputError: the run has reached its target, or run every point of its space.
    """
    before = spec.model_copy(update={"budget": run.read_spec().budget})
    kept = before.budget.model_copy(update={limit: getattr(spec.budget, limit) for limit in extension.limits})
    if not is_finished(before, run, ledger):
        display.say("The run is unfinished, so it goes on to the budget it has; an extension is for a finished run")
        return spec.model_copy(update={"budget": kept})
    budget, lifted = extended_budget(
        kept, extension, Tally(ledger.trials()), ledger.search_seconds, exhausted=ledger.is_exhausted()
    )
    for line in lifted:
        display.say(f"Extended: {line}")
    return spec.model_copy(update={"budget": budget})


def is_finished(spec: Spec, run: RunFolder, ledger: Ledger) -> bool:
    """Whether the search has nothing left to do, the run's evaluation is of all its trials, and its model exported."""
    if not run.evaluation.exists() or limit_reached(spec, ledger) is None:
        return False
    evaluation = read_evaluation(run)
    known = (evaluation["trials"], evaluation["confirm"], evaluation.get("exported"))
    return known == (len(ledger), spec.confirm.model_dump(), evaluation["winner"])


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
    prepared = prepare(spec.cohort, run, results / CACHE, display.progress, folds=spec.folds.count)
    display.clear()
    split = prepared.split
    scans = f"{prepared.data.cohort.size}, " if split.groups else ""
    display.say(
        f"Split (locked, by patient): {len(split.train)} train, {len(split.val)} validation, {len(split.test)} test; "
        f"{scans}{prepared.data.cohort.slice_count} slices at {spec.cohort.image_size} pixels"
    )
    if prepared.folds:
        sizes = " or ".join(str(size) for size in sorted({len(fold.val) for fold in prepared.folds}))
        display.say(
            f"Folds: trials are measured on {len(prepared.folds)} folds of the patients outside the test, "
            f"{sizes} of them validating in each"
        )
    if prepared.alike:
        display.say(f"WARNING: {leak_in_words(prepared.alike)}; see {run.near_duplicates}")
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
        folds=tuple(
            Fold(fold.train, fold.val, training_normalisation(prepared.data.store, fold)) for fold in prepared.folds
        ),
        fold_use=spec.folds.use,
    )


def read_evaluation(run: RunFolder) -> dict[str, Any]:
    """The run's evaluation.

    Raises:
        InputError: it is damaged, or of another version.
    """
    try:
        evaluation: dict[str, Any] = json.loads(run.evaluation.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{run.evaluation}: damaged ({first_line(error)}); delete it to have it made again") from error
    if evaluation.get("format") != EVALUATION_FORMAT:
        raise InputError(
            f"{run.evaluation}: written by an earlier version, without some of today's figures; "
            "delete it and give the command that made the run again, which tests the trained models anew"
        )
    return evaluation


def is_tested(run: RunFolder, jobs: Mapping[str, FinalJob]) -> bool:
    """Whether the run's evaluation is of these very trainings."""
    if not run.evaluation.exists():
        return False
    evaluation = read_evaluation(run)
    known = (evaluation["winner"], evaluation["epochs"])
    return known == (jobs["winner"].number, {role: job.epochs for role, job in jobs.items()})


def finish(
    spec: Spec,
    run: RunFolder,
    ledger: Ledger,
    jobs: Mapping[str, FinalJob],
    confirmation: Sequence[Confirmed],
    prepared: Prepared,
    slots: Slots,
    display: Display,
) -> None:
    """Test the winner and export it, unless that was done, and sum up."""
    cost = cost_of(spec.objective)
    searched = {
        "trials": len(ledger),
        "confirm": spec.confirm.model_dump(),
        "slots_busy": ledger.busy_share,
        "confirmation": confirmation_summary(confirmation) if confirmation else None,
        "pareto": front_summary(ledger.trials(), cost) if cost else None,
    }
    if is_tested(run, jobs):
        display.say("The winner is the one that was tested before; the test patients are not opened again")
        evaluation = read_evaluation(run)
    else:
        evaluation = test_winner(spec, run, jobs, prepared, slots, display)
    validation = validation_dice(ledger.trial(jobs["winner"].number), confirmation)
    evaluation |= searched | {"overtuning": overtuning(validation, evaluation["models"]["winner"]["dice"])}
    # Kept before the model is exported, so that nothing that ends the command then opens the test part again.
    write_evaluation(run.evaluation, evaluation)
    if evaluation.get("exported") != evaluation["winner"]:
        graphs = export_winner(
            run, jobs["winner"], evaluation, spec.exports, lambda step: display.say(f"Exporting: {step}")
        )
        for graph in graphs:
            display.say(f"Exported: {graph}")
        write_evaluation(run.evaluation, evaluation | {"exported": evaluation["winner"]})
    write_tensorboard(run, ledger.trials())
    write_report(run, ledger)
    display.say(closing_summary(run, ledger))


def test_winner(
    spec: Spec,
    run: RunFolder,
    jobs: Mapping[str, FinalJob],
    prepared: Prepared,
    slots: Slots,
    display: Display,
) -> dict[str, Any]:
    """Open the test part for the winner and the defaults; the figures, and what they were measured on."""
    split, cohort = prepared.split, prepared.data.cohort
    display.say(f"Testing on {split.size('test')} that no trial has read")
    reason = f"final evaluation of {', '.join(jobs)}"
    results = test_models(run, jobs, prepared, slots.device, reason=reason, out=run.root, slices=run.slices)
    return {
        "format": EVALUATION_FORMAT,
        "cohort": cohort.name,
        "cohort_hash": cohort.hash,
        "synthetic": cohort.synthetic,
        "windows": in_words(prepared.data.store.windows),
        "profile": spec.profile,
        "patients": {part: split.patient_count(part) for part in PARTS},
        "winner": jobs["winner"].number,
        "epochs": {role: job.epochs for role, job in jobs.items()},
        "opening": run.last_test_opening(),
        "near_duplicates": len(prepared.alike),
        **summarise(results),
    }
