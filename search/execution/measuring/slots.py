"""This machine's trial slots by what trainings are seen to take, now or in an earlier session."""

from functools import partial

from data_prep.common.machine import available_cores
from search.execution.measuring.probe import (
    Bench,
    ForkServer,
    MemoryPool,
    find_pool,
    measurer_in,
    plan_memory,
    recall_memory,
)
from search.placement.memory import MemoryPlan
from search.placement.resources import Slots, is_placed_by_memory, slots_by_memory
from search.run.opened import Run


def measured_slots(run: Run) -> Slots:
    """This machine's slots by what trials are seen to take, unless the file fixes how many share a GPU.

    Raises:
        InputError: the file of an earlier session is damaged.
        RunFailed: a training broke off for another reason than memory.
    """
    resources, slots = run.spec.resources, run.slots
    if not is_placed_by_memory(resources, slots):
        return slots
    with ForkServer() as fork_server:
        pool = find_pool(fork_server, slots.device, slots.gpus)
        memory = measure(run, slots, fork_server, pool)
    slots = slots_by_memory(resources, slots, memory, cores=available_cores())
    run.display.say(f"Memory: {memory}; trials: {slots}")
    return slots


def recalled_slots(run: Run) -> Slots:
    """This machine's slots by what earlier sessions have measured; as they were planned where that is not known here.

    Raises:
        InputError: the file of an earlier session is damaged.
    """
    resources, slots, path = run.spec.resources, run.slots, run.folder.memory
    if not is_placed_by_memory(resources, slots) or not path.exists():
        return slots
    with ForkServer() as fork_server:
        pool = find_pool(fork_server, slots.device, slots.gpus)
    memory = recall_memory(run.space, run.spec.cohort.image_size, path, pool, windows=run.windows)
    return slots_by_memory(resources, slots, memory, cores=available_cores()) if memory else slots


def measure(run: Run, slots: Slots, bench: Bench, pool: MemoryPool) -> MemoryPlan:
    """What the run's trainings take of a pool, measured on a bench where no session has done so before.

    Raises:
        InputError: the file of an earlier session is damaged.
        RunFailed: a training broke off for another reason than memory.
    """
    memory = plan_memory(
        run.space,
        run.spec.cohort.image_size,
        run.folder.memory,
        pool,
        measurer_in(bench, slots.device, slots.threads, pool),
        partial(run.display.progress, "measuring the memory of trials"),
        windows=run.windows,
    )
    run.display.clear()
    return memory
