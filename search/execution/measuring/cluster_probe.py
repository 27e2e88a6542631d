"""What trainings measure on a cluster that was joined, measured on one of its nodes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import ray

from data_prep.common.errors import last_line
from search.errors import RunFailed
from search.execution.measuring.probe import ForkServer, MemoryPool, main_memory, smallest_gpu
from search.execution.measuring.slots import measure
from search.execution.session.cluster import Node, cluster_nodes, name_of, on_node, slots_by_memory_of
from search.placement.resources import Slots, is_placed_by_memory
from search.run.opened import Run


def slots_measured_there(run: Run) -> Slots:
    """The trial slots of the cluster that was joined, measured on the node that has the smallest pool.

    Raises:
        InputError: the file of an earlier session is damaged.
        RunFailed: a training broke off for another reason than memory.
    """
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
        memory = measure(run, slots, bench, pool)
    slots = slots_by_memory_of(nodes, resources, slots, memory)
    display.say(f"Memory: {memory}; trials: {slots}")
    return slots


def pools_of(nodes: Sequence[Node], device: Literal["cpu", "cuda"]) -> dict[Node, MemoryPool]:
    """The smallest GPU of each node, or the memory that its trainings may have.

    Raises:
        RunFailed: a node's GPUs cannot be looked at.
    """
    if device == "cpu":
        return {node: main_memory(node.memory_bytes) for node in nodes}
    # A task that is lent no GPU sees all of its node; its process goes afterwards, and what it holds of them with it.
    look = ray.remote(num_cpus=0, max_calls=1)(smallest_gpu)
    answers = {node: look.options(scheduling_strategy=on_node(node)).remote(node.gpus) for node in nodes}
    pools = {}
    for node, answer in answers.items():
        try:
            pools[node] = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise RunFailed(f"the GPUs of node {name_of(node)} cannot be looked at ({last_line(error)})") from error
    return pools


def smallest_pool(pools: Mapping[Node, MemoryPool]) -> tuple[Node, MemoryPool]:
    """What fits this one fits all; with the node that has it."""
    return min(pools.items(), key=lambda entry: entry[1].total_bytes)


class NodeBench:
    """A fork_server (`search.execution.measuring.probe.ForkServer`) on a node, with a GPU to itself or a trial's cores.

    A context manager. It waits for a GPU that is free.
    """

    def __init__(self, node: Node, slots: Slots) -> None:
        self._node = node
        actor = ray.remote(_BenchActor).options(
            num_cpus=slots.threads, num_gpus=1 if slots.device == "cuda" else 0, scheduling_strategy=on_node(node)
        )
        self._actor = actor.remote()

    def __enter__(self) -> "NodeBench":
        return self

    def __exit__(self, *_: object) -> None:
        ray.kill(self._actor)

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What ``work`` answers; None where the kernel killed it, as it does for want of memory.

        Raises:
            RunFailed: the process or the node broke off.
        """
        try:
            return ray.get(self._actor.run.remote(work, *arguments))
        except ray.exceptions.RayError as error:
            raise RunFailed(f"node {name_of(self._node)}: {last_line(error)}") from error


class _BenchActor:
    """A fork_server in a worker."""

    def __init__(self) -> None:
        self._workshop = ForkServer()

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return self._workshop.run(work, *arguments)
