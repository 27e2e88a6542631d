"""Trial slots by what trainings are seen to take: on this machine, on a cluster, or as an earlier sitting saw it."""

from functools import partial
from pathlib import Path

from data_prep.common.machine import available_cores
from search.console.display import Display
from search.execution.measuring.cluster_probe import NodeBench, cards_of, smallest_card
from search.execution.measuring.probe import Bench, Card, Workshop, find_card, plan_memory, recall_memory, weigh_in
from search.execution.session.cluster import cluster_nodes, slots_by_memory_of
from search.placement.memory import MemoryPlan
from search.placement.resources import Slots, is_placed_by_memory, slots_by_memory
from search.run.prepare import window_count
from search.spec.settings import Spec
from search.spec.space import SearchSpace


def measured_slots(spec: Spec, space: SearchSpace, slots: Slots, path: Path, display: Display) -> Slots:
    """This machine's slots by what trials are seen to take, unless the file fixes how many share a GPU.

    Args:
        spec: the search.
        space: what can be proposed.
        slots: as they are planned before anything is measured.
        path: where weights are kept.
        display: where to report.

    Raises:
        InputError: the file of an earlier sitting is damaged.
        RunFailed: a training broke off for another reason than memory.
    """
    if not is_placed_by_memory(spec.resources, slots):
        return slots
    with Workshop() as workshop:
        card = find_card(workshop, slots.device, slots.gpus)
        memory = _measure(spec, space, slots, path, workshop, card, display)
    slots = slots_by_memory(spec.resources, slots, memory, cores=available_cores())
    display.say(f"Memory: {memory}; trials: {slots}")
    return slots


def recalled_slots(spec: Spec, space: SearchSpace, slots: Slots, path: Path) -> Slots:
    """This machine's slots by what earlier sittings have weighed; as they were planned where that is not known here.

    Raises:
        InputError: the file of an earlier sitting is damaged.
    """
    if not is_placed_by_memory(spec.resources, slots) or not path.exists():
        return slots
    with Workshop() as workshop:
        card = find_card(workshop, slots.device, slots.gpus)
    memory = recall_memory(space, spec.cohort.image_size, path, card, windows=window_count(spec.cohort))
    return slots_by_memory(spec.resources, slots, memory, cores=available_cores()) if memory else slots


def slots_measured_there(spec: Spec, space: SearchSpace, slots: Slots, path: Path, display: Display) -> Slots:
    """The same as `measured_slots` on the cluster that was joined: weighed on the node that has the smallest card."""
    nodes = [node for node in cluster_nodes() if node.count(slots)]
    if not is_placed_by_memory(spec.resources, slots) or not nodes:
        # A cluster that is yet to grow has no node to weigh on; there a trial has a whole GPU.
        display.say(f"Trials: {slots}")
        return slots
    cards = cards_of(nodes, slots.device)
    node, card = smallest_card(cards)
    if len(set(cards.values())) > 1:
        display.say(
            f"The nodes differ; trials are planned for the smallest, {card.total_bytes / 1e9:.1f} GB ({card.name})"
        )
    with NodeBench(node, slots) as bench:
        memory = _measure(spec, space, slots, path, bench, card, display)
    slots = slots_by_memory_of(nodes, spec.resources, slots, memory)
    display.say(f"Memory: {memory}; trials: {slots}")
    return slots


def _measure(
    spec: Spec, space: SearchSpace, slots: Slots, path: Path, bench: Bench, card: Card, display: Display
) -> MemoryPlan:
    memory = plan_memory(
        space,
        spec.cohort.image_size,
        path,
        card,
        weigh_in(bench, slots.device, slots.threads, card),
        partial(display.progress, "measuring the memory of trials"),
        windows=window_count(spec.cohort),
    )
    display.clear()
    return memory
