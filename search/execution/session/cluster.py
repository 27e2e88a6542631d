"""A Ray cluster that is already there: joining it, what it offers, and whether its nodes can see the run.

The nodes have the same Python environment; our own code travels with the run, so none of them needs a checkout.
"""

import hashlib
import logging
import math
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_prep.common.errors import InputError, first_line
from search.placement.memory import MemoryPlan
from search.placement.resources import Slots, plan_slots
from search.spec.settings import ResourcesConfig
from search.spec.shipped import PACKAGES

SHIPPED = ("search", "lcnn", "data_prep")
"""What workers run; it is sent to them as it is here."""
CONNECT_S = 5.0
"""Ray itself tries an address that nobody answers for minutes."""
READ_S = 120.0
"""Longest wait for a node to look for the run's files; its first worker has to start for that."""


@dataclass(frozen=True)
class Node:
    """One machine of a cluster."""

    id: str
    cores: int
    gpus: int
    memory_bytes: int = 0
    """Main memory that Ray lends."""

    def count(self, slots: Slots) -> int:
        """Trials of these slots that fit the machine at once."""
        by_cores = self.cores // slots.threads
        return min(by_cores, self.gpus * _per_gpu(slots)) if slots.gpu_share else by_cores

    def count_sharing(self, slots: Slots, share: float, pool_bytes: int) -> int:
        """Trials that fit the machine at once if each takes this share of a pool."""
        by_cores = self.cores // slots.threads
        if slots.device == "cuda":
            return min(by_cores, self.gpus * math.floor(1 / share))
        return min(by_cores, self.memory_bytes // int(share * pool_bytes))


def plan_cluster_slots(config: ResourcesConfig, nodes: Sequence[Node]) -> Slots:
    """Trial slots over all nodes of a cluster: 0 at once where no node can hold a trial.

    A number of trials that is set stands, for a cluster that grows starts nodes for those that wait.
    """
    total = sum(node.gpus for node in nodes)
    gpus = total if config.gpus is None else config.gpus
    # What one trial takes is decided as on one machine; how many there are, node by node.
    each = plan_slots(config, cores=config.threads, gpus=gpus)
    fitting = sum(node.count(each) for node in nodes)
    if each.gpu_share:
        fitting = min(fitting, gpus * _per_gpu(each))
    return replace(each, at_once=config.trials_at_once or fitting)


def slots_by_memory_of(nodes: Sequence[Node], config: ResourcesConfig, slots: Slots, memory: MemoryPlan) -> Slots:
    """The slots of a cluster, once it is known what trials take of the smallest of its pools.

    As on one machine, see `search.placement.resources.slots_by_memory`, but node by node.
    """

    def fitting(share: float) -> int:
        count = sum(node.count_sharing(slots, share, memory.pool_bytes) for node in nodes)
        return min(count, slots.gpus * math.floor(1 / share)) if slots.device == "cuda" else count

    at_once = config.trials_at_once or fitting(memory.smallest_share)
    least = memory.largest_share if at_once <= fitting(memory.largest_share) else 0.0
    return replace(slots, at_once=at_once, memory=memory, least_share=least)


def _per_gpu(slots: Slots) -> int:
    return round(1 / slots.gpu_share)


def check_address(address: str) -> None:
    """Refuse an address at which nobody answers.

    Raises:
        InputError: it is none, or nothing listens there.
    """
    known = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if known == "auto":
        return  # Ray looks for a cluster on this machine, at once
    host, _, port = known.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise InputError(
            f"--address {address}: not HOST:PORT of a cluster's head; give that, or auto on one of its nodes. "
            "Ray Client (ray://) holds no search; use ray job submit instead"
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def join(address: str, environment: dict[str, str]) -> None:
    """Connect this process to a running cluster; nothing of the cluster's is started or changed.

    Args:
        address: HOST:PORT of its head, or ``auto`` for the cluster that this machine is part of.
        environment: environment variables of the workers.

    Raises:
        InputError: there is no such cluster, or it is not one that this Ray can join.
    """
    check_address(address)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={
                "py_modules": [str(PACKAGES / package) for package in SHIPPED],
                "excludes": ["__pycache__"],
                "env_vars": environment,
            },
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise _unreachable(address, error) from error
    except Exception as error:
        if type(error) is not Exception:  # as which Ray reports a head that does not know its own node yet
            raise
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> InputError:
    return InputError(
        f"--address {address}: no Ray cluster can be joined there ({first_line(error)}); "
        "start one with ray start --head and this Ray version, set RAY_AUTH_MODE=token where it asks for a token, "
        "or leave --address out to search on this machine"
    )


def cluster_nodes() -> list[Node]:
    """The living nodes of the cluster that was joined."""
    return [
        Node(node["NodeID"], *(int(node["Resources"].get(name, 0)) for name in ("CPU", "GPU", "memory")))
        for node in ray.nodes()
        if node["Alive"]
    ]


def cluster_slots(config: ResourcesConfig) -> Slots:
    """Trial slots on the cluster that was joined.

    Raises:
        InputError: no node can hold a trial.
    """
    nodes = cluster_nodes()
    slots = plan_cluster_slots(config, nodes)
    if slots.at_once == 0:
        shown = ", ".join(f"{node.cores} CPUs and {node.gpus} GPUs" for node in nodes)
        raise InputError(
            f"resources: no node of the cluster ({shown}) holds a trial of {slots}; lower resources.threads, or "
            "set resources.trials_at_once and resources.gpus where nodes are yet to be started"
        )
    return slots


def slots_on_cluster(config: ResourcesConfig, store: Path, folder: Path | None) -> Slots:
    """Trial slots on the cluster that was joined, once it is known that its nodes can run trainings.

    Args:
        config: what a trial takes.
        store: the compiled cohort.
        folder: the run's, where trainings keep their files; None: in a storage of their own.

    Raises:
        InputError: no node can hold a trial, or one cannot read what a trial needs.
    """
    slots = cluster_slots(config)
    nodes = [node for node in cluster_nodes() if node.count(slots)]
    remedy = "put --results on a folder that all nodes share"
    check_nodes(nodes, store / "index.json", f"the compiled cohort {store}", remedy)
    if folder is not None:
        check_nodes(nodes, folder / "spec.yaml", f"the run folder {folder}", f"{remedy}, or set storage.checkpoints")
    return slots


def check_nodes(nodes: Sequence[Node], file: Path, what: str, remedy: str) -> None:
    """See that every node reads the same file as this machine.

    Raises:
        InputError: a node does not.
    """

    def digest(path: Path) -> str | None:
        # Defined here it travels by itself: a node need not import all of ours, torch with it, to read a file.
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            return None

    here = digest(file)
    task = ray.remote(digest)
    answers = [task.options(num_cpus=0, scheduling_strategy=on_node(node)).remote(file) for node in nodes]
    for answer, node in zip(answers, nodes, strict=True):
        try:
            there = ray.get(answer, timeout=READ_S)
        except ray.exceptions.RayError as error:
            raise InputError(f"node {name_of(node)} runs nothing ({first_line(error)}); mend or remove it") from error
        if there != here:
            raise InputError(f"node {name_of(node)} cannot read {what}; {remedy}")


def on_node(node: Node) -> NodeAffinitySchedulingStrategy:
    """Places work on this node and on no other."""
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def name_of(node: Node) -> str:
    """The address that people know a node by."""
    return next((entry["NodeManagerAddress"] for entry in ray.nodes() if entry["NodeID"] == node.id), node.id)
