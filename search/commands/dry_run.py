"""What a search will do and how long it will take, measured on this machine before it starts."""

import math
from dataclasses import dataclass

import torch

from data_prep.cohort.compiled import cache_folder
from data_prep.cohort.layout import Cohort, read_cohort
from data_prep.common.wording import counted
from lcnn.config import TrainConfig
from search.console.words import minutes
from search.execution.measuring.slots import recalled_slots
from search.placement.rehearsal import Rehearsal
from search.placement.resources import Slots, is_placed_by_memory, thread_warning
from search.run.checks import NOTHING_ASKED, Asked, check_cohort_and_network, check_parts, check_run
from search.run.opened import Run
from search.run.prepare import CACHE, CohortPlace
from search.run.study import study_of
from search.spec.settings import ResourcesConfig, Spec
from search.spec.space import SearchSpace
from search.study.budget.limits import planned_trials
from search.study.scheduling.schedulers import expected_epochs

TIMED_STEPS = 3
STARTUP_S = 20.0
"""Ray and its workers take about this long to start."""


@dataclass(frozen=True)
class Workload:
    """How much data one epoch works through."""

    train_stacks: int
    val_slices: int


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds, from timed steps of the defaults at the given load."""

    step_s: float
    epoch_s: float
    trial_steps: float
    """Epochs, or folds where these are its steps, that a trial runs on average under the scheduler."""
    search_s: float
    confirm_s: float
    final_s: float

    @property
    def total_s(self) -> float:
        """The whole run without the building of the cohort."""
        return STARTUP_S + self.search_s + self.confirm_s + self.final_s


def time_steps(config: TrainConfig, image_size: int, slots: Slots, windows: int = 1) -> tuple[float, float]:
    """Seconds of one training step and of one validation batch, on random pictures, on one slot's threads."""
    from torch.utils.benchmark import Timer  # noqa: PLC0415 - brings 0.2 s of its own along

    rehearsal = Rehearsal(config, image_size, torch.device(slots.device), windows)
    step_s, val_s = (
        float(Timer("work()", globals={"work": work}, num_threads=slots.threads).timeit(TIMED_STEPS).mean)
        for work in (rehearsal.step, rehearsal.validate)
    )
    return step_s, val_s


def estimate_time(spec: Spec, trials: int | None, slots: Slots, load: Workload, windows: int) -> TimeEstimate:
    """Time of search and final trainings, had all trials the defaults' cost and ASHA its usual course.

    Infinite where only a plateau ends a search without a number of trials.

    A search over T costs more than this where larger T are drawn often; the estimate names the order.
    """
    step_s, val_s = time_steps(spec.training, spec.cohort.image_size, slots, windows)
    steps, val_batches = (
        load.train_stacks / spec.training.train.batch_size,
        load.val_slices / spec.training.train.stacks_at_once,
    )
    epoch_s = math.ceil(steps) * step_s + math.ceil(val_batches) * val_s
    per_trial = expected_epochs(spec.scheduler, spec.steps)
    # Trial 0 runs to its end whatever the scheduler says.
    trial_steps = min(
        spec.steps + (math.inf if trials is None else trials - 1) * per_trial, spec.budget.epochs or math.inf
    )
    trainings = max(1, spec.folds.count)
    search_s = trial_steps * trainings * spec.epochs / spec.steps * epoch_s / slots.at_once
    if spec.budget.hours is not None:
        search_s = min(search_s, spec.budget.hours * 3600)
    if spec.budget.gpu_hours is not None and slots.gpus:
        search_s = min(search_s, spec.budget.gpu_hours * 3600 / slots.gpus)
    # The best and, where they are not among them, the defaults.
    candidates = min(spec.confirm.top + 1, trials or math.inf) if spec.confirm.top else 0
    confirmed = candidates * spec.confirm.seeds * trainings
    rounds = math.ceil(confirmed / slots.at_once)
    confirm_s = rounds * spec.epochs * epoch_s
    final_s = 2 * spec.epochs * epoch_s / min(2, slots.at_once)
    return TimeEstimate(step_s, epoch_s, per_trial, search_s, confirm_s, final_s)


def describe_space(space: SearchSpace) -> list[str]:
    """The ranges, a line each."""
    return [f"{searched.name}: {searched}" for searched in space.ranges()]


def describe_slots(config: ResourcesConfig, slots: Slots) -> str:
    """How many trials run side by side, as far as that is known before a trial's memory is measured."""
    if slots.memory is not None:
        return f"{slots}; {slots.memory}, as this run has measured"
    if not is_placed_by_memory(config, slots):
        return str(slots)
    if slots.gpus:
        return "as many to a GPU as its memory holds, which the search measures first; one is assumed here"
    return f"{slots}, or fewer where their memory, which the search measures first, asks for it"


def dry_run(run: Run, where: str, asked: Asked = NOTHING_ASKED) -> None:
    """Check all that the search itself checks, show the plan and estimate its time; nothing is left behind.

    Args:
        run: the run, as it would be begun or gone on with.
        where: names the space file.
        asked: what the command line asks beside it.

    Raises:
        InputError: something that the search would refuse.
    """
    spec, space, display, place = run.spec, run.space, run.display, run.place
    check_cohort_and_network(run)
    exists, warm = check_run(run, asked)
    if exists and (run.folder.study.exists() or study_of(spec, run.folder).is_shared):
        _ = run.ledger  # opened, it is seen to be readable
    slots = recalled_slots(run)
    if asked.address is not None:
        slots = _slots_there(spec, slots, asked.address)
    trials = planned_trials(spec, space)
    cohort = read_cohort(place.root, cache_folder(place.root, run.results / CACHE)) if place.is_there else None
    if asked.address is None and (warning := thread_warning(spec.resources)):
        display.say(warning)
    split = check_parts(run, cohort)
    display.clear()
    display.say(
        f"{where} is valid. Profile {spec.profile or 'none'}; run folder {run.folder.root}"
        + (" (exists, would be resumed)" if exists else "")
    )
    display.say(f"Cohort: {describe_cohort(place, cohort)}")
    sizes = f"{split.size('train')} to train, {split.size('val')} to validate, {split.size('test')} to test"
    display.say(f"Split: {sizes}")
    if warm:
        display.say(f"Warm start: {counted(len(warm.points), 'point')} of the other run would be tried first")
        for refusal in warm.refused:
            display.say(f"  left out: {refusal}")
    display.say("Searched:")
    for line in describe_space(space):
        display.say(f"  {line}")
    load, source = workload(spec, cohort)
    time_s = estimate_time(spec, trials, slots, load, run.windows)
    steps = f"{time_s.trial_steps:.1f} of {spec.steps} {spec.step_unit}"
    every_point = ", every point there is" if trials != spec.budget.trials else ""
    most = "no limit of trials" if trials is None else counted(trials, "trial")
    display.say(f"Budget: {most}{every_point}; a trial runs about {steps} under {spec.scheduler.name}")
    display.say(f"Trials: {describe_slots(spec.resources, slots)}")
    display.say("Time, estimated from steps that were timed just now:")
    display.say(
        f"  a step     {time_s.step_s * 1000:.0f} ms for {spec.training.train.batch_size} stacks "
        f"at T = {spec.training.T}"
    )
    display.say(
        f"  an epoch   {minutes(time_s.epoch_s)} for {load.train_stacks} stacks and "
        f"{load.val_slices} validation slices, {source}"
    )
    display.say(f"  searching  {minutes(time_s.search_s)}; larger T cost more")
    display.say(f"  confirming {minutes(time_s.confirm_s)} for the best trials and the defaults, with other seeds")
    display.say(f"  training   {minutes(time_s.final_s)} for the winner and the defaults")
    display.say(f"  in all     {minutes(time_s.total_s)}")


def _slots_there(spec: Spec, slots: Slots, address: str) -> Slots:
    # Ray takes half a second to import, which a plan for this machine can do without.
    from search.execution.session.cluster import cluster_slots  # noqa: PLC0415
    from search.execution.tune_search import ray_running  # noqa: PLC0415

    with ray_running(slots, address):
        return cluster_slots(spec.resources)


def describe_cohort(place: CohortPlace, cohort: Cohort | None) -> str:
    """Where the cohort is, and how large; None is the synthetic one, still to be built."""
    if cohort is None:
        return f"{place.root} (synthetic, built on the first run)"
    size = f"{place.root}, {cohort.size}, {counted(cohort.slice_count, 'slice')}"
    return f"{size} (synthetic)" if place.is_phantom else size


def workload(spec: Spec, cohort: Cohort | None) -> tuple[Workload, str]:
    """Stacks and validation slices of an epoch, and where the figures come from."""
    slices, source = _slice_count(spec, cohort)
    # A quarter of the slices of a stroke cohort hold lesion, give or take; exact once the cohort is compiled.
    stacks = round(slices * spec.cohort.split.train * 0.25 / max(spec.training.train.lesion_share, 0.05))
    return Workload(spec.training.train.stacks_per_epoch or stacks, round(slices * spec.cohort.split.val)), source


def _slice_count(spec: Spec, cohort: Cohort | None) -> tuple[int, str]:
    if cohort is not None:
        return cohort.slice_count, "from its slices"
    return 27 * spec.cohort.phantom.patients, "expected"
