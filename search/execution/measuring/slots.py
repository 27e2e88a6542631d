"""Trial slots by what trainings are seen to take: on this machine, on a cluster, or as an earlier session saw it."""

from functools import partial

from data_prep.common.machine import available_cores
from search.execution.measuring.cluster_probe import NodeBench, pools_of, smallest_pool
from search.execution.measuring.probe import (
    Bench,
    ForkServer,
    MemoryPool,
    find_pool,
    measurer_in,
    plan_memory,
    recall_memory,
)
from search.execution.session.cluster import cluster_nodes, slots_by_memory_of
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
        memory = _measure(run, slots, fork_server, pool)
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


def slots_measured_there(run: Run) -> Slots:
    """The same as `measured_slots` on the cluster that was joined: measured on the node that has the smallest pool."""
    resources, slots, display = run.spec.resources, run.slots, run.display
    nodes = [node for node in cluster_nodes() if node.count(slots)]
    if not is_placed_by_memory(resources, slots) or not nodes:
        # A cluster that is yet to grow has no node to measure on; there a trial has a whole GPU.
        display.say(f"Trials: {slots}")
        return slots
    pools = pools_of(nodes, slots.device)
    node, pool = smallest_pool(pools)
    if len(set(pools.values())) > 1:
        display.say(
            f"The nodes differ; trials are planned for the smallest, {pool.total_bytes / 1e9:.1f} GB ({pool.name})"
        )
    with NodeBench(node, slots) as bench:
        memory = _measure(run, slots, bench, pool)
    slots = slots_by_memory_of(nodes, resources, slots, memory)
    display.say(f"Memory: {memory}; trials: {slots}")
    return slots


def _measure(run: Run, slots: Slots, bench: Bench, pool: MemoryPool) -> MemoryPlan:
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
