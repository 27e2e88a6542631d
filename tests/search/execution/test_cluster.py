"""A search that outgrows one machine: several real raylets on this one, each a node with a GPU on paper."""

import json
import math
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import curves
import pytest
import quick
import ray
import yaml
from quick import EPOCHS, QuickActor, quick_context, read_diary
from ray.cluster_utils import Cluster
from tiny_cohort import SIDE, TINY

from data_prep.common.errors import InputError
from data_prep.common.files import write_text_atomically
from lcnn.dotted import replaced
from lcnn.outcome import Outcome
from search.console.display import Display
from search.execution.measuring.cluster_probe import slots_measured_there, smallest_pool
from search.execution.measuring.probe import MemoryPool, main_memory, recall_memory
from search.execution.session.cluster import (
    Node,
    check_address,
    check_nodes,
    cluster_nodes,
    cluster_slots,
    plan_cluster_slots,
    slots_by_memory_of,
    slots_on_cluster,
)
from search.execution.tune_search import ray_running, run_trials
from search.placement.memory import MemoryPlan, MemoryProfile
from search.placement.resources import plan_slots
from search.run.folder import RunFolder
from search.run.opened import Run
from search.spec.settings import BudgetConfig, CohortConfig, Overrides, ResourcesConfig, Spec, load_spec
from search.spec.space import SearchSpace
from search.study.conductor import Conductor, Event
from search.study.ledger import DEFAULTS, Ledger
from search.study.scheduling.schedulers import Asha

Open = Callable[..., Ledger]
TRIALS = 10
SMALL_NODE = 900_000_000
"""Bytes of memory that the smaller of two nodes lends: for one training, and not for two."""
ONE_GPU_EACH = ResourcesConfig(trials_per_gpu=1)
ONE_SLOT = plan_slots(ResourcesConfig(), cores=1, gpus=0)
TWO_BY_TWO = [Node("a", 8, 2), Node("b", 2, 2), Node("c", 4, 0)]


@pytest.mark.parametrize(
    ("settings", "nodes", "at_once"),
    [
        ({"trials_per_gpu": 1}, TWO_BY_TWO, 4),
        ({"trials_per_gpu": 2}, TWO_BY_TWO, 6),  # the second node has two cores for its four shares
        ({"trials_per_gpu": 1, "threads": 2}, TWO_BY_TWO, 3),
        ({"trials_per_gpu": 1, "gpus": 3}, TWO_BY_TWO, 3),
        ({"gpus": 0, "threads": 2}, TWO_BY_TWO, 7),
        ({"trials_per_gpu": 1, "trials_at_once": 16}, TWO_BY_TWO, 16),  # the cluster is to grow
        ({"trials_per_gpu": 1, "threads": 16}, TWO_BY_TWO, 0),
        ({"threads": 2}, [Node("a", 3, 0), Node("b", 3, 0)], 2),  # not 3: no trial spans two nodes
    ],
)
def test_slots_of_a_cluster_are_those_of_its_nodes(settings: dict[str, int], nodes: list[Node], at_once: int) -> None:
    assert plan_cluster_slots(ResourcesConfig(**settings), nodes).at_once == at_once


def memory_plan(pool_bytes: int, *peaks: float) -> MemoryPlan:
    """What trainings take of a pool, by their T."""
    profiles = {MemoryProfile.of(replaced(TINY, {"T": T}), SIDE): peak for T, peak in enumerate(peaks)}
    return MemoryPlan(pool_bytes, 0, SIDE, {"T": tuple(range(len(peaks)))}, profiles, shares=16)


QUARTER, HALF = 200.0, 430.0  # bytes, of a pool of 1000 and with the margin


@pytest.mark.parametrize(
    ("settings", "nodes", "peaks", "at_once", "least_share"),
    [
        ({}, TWO_BY_TWO, [QUARTER, HALF], 10, 0.0),  # the second node has two cores for its eight quarters
        ({}, [Node("a", 4, 2)], [HALF], 4, 0.5),
        ({"trials_at_once": 6}, TWO_BY_TWO, [QUARTER, HALF], 6, 0.5),  # as many of the largest fit: all alike
        ({"trials_at_once": 7}, TWO_BY_TWO, [QUARTER, HALF], 7, 0.0),
        ({"threads": 3}, TWO_BY_TWO, [QUARTER, HALF], 2, 0.5),
        ({"gpus": 1}, TWO_BY_TWO, [QUARTER, HALF], 4, 0.0),
        ({"gpus": 0}, [Node("a", 8, 0, 1000), Node("b", 8, 0, 2000)], [QUARTER, HALF], 12, 0.0),
        ({"gpus": 0}, [Node("a", 1, 0, 1000), Node("b", 1, 0, 2000)], [QUARTER, HALF], 2, 0.5),
    ],
)
def test_slots_by_memory_are_counted_node_by_node(
    settings: dict[str, int], nodes: list[Node], peaks: list[float], at_once: int, least_share: float
) -> None:
    config = ResourcesConfig(**settings)
    slots = slots_by_memory_of(nodes, config, plan_cluster_slots(config, nodes), memory_plan(1000, *peaks))
    assert (slots.at_once, slots.least_share) == (at_once, least_share)


def test_of_different_cards_the_smallest_is_planned_for() -> None:
    large, small, other = (MemoryPool(name, size * 10**9, 16) for name, size in (("L", 80), ("S", 24), ("M", 40)))
    nodes = TWO_BY_TWO
    assert smallest_pool(dict(zip(nodes, (large, small, other), strict=True))) == (nodes[1], small)


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("nonsense", r"--address nonsense: not HOST:PORT"),
        ("ray://127.0.0.1:10001", r"Ray Client \(ray://\) holds no search; use ray job submit"),
        ("127.0.0.1:99999", r"no Ray cluster can be joined there"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        check_address(address)


def test_an_address_that_nobody_answers_is_refused_with_the_remedy() -> None:
    with socket.socket() as taken:  # bound but not listening: surely nobody answers
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=r"--address .* start one with ray start --head") as error:
            check_address(address)
    assert "\n" not in str(error.value)


def test_auto_means_the_address_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(InputError, match="--address auto: no Ray cluster"), ray_running(ONE_SLOT, "auto"):
            pass
    assert not ray.is_initialized()


class OnLocalDisk(type(Path())):  # type: ignore[misc]
    """A path that leads elsewhere on another node, as one on a local disk does."""

    def __reduce__(self) -> tuple[type[Path], tuple[str]]:
        return (Path, (str(self / "elsewhere"),))

    def read_bytes(self) -> bytes:
        return b"here"


HEAD: dict[str, object] = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "dashboard_port": None}
"""Of a head node without trials. Its dashboard's usual port, which it would try alone, another test's Ray may hold."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that runs no trials, and two nodes with one core and one GPU on paper each."""
    # Nodes are given up after two seconds instead of half a minute.
    fast = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    made = Cluster(initialize_head=True, head_node_args=HEAD | {"_system_config": fast})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, num_gpus=1)
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def on_workers() -> Iterator[None]:
    """Test modules lie on no worker's path and travel by value."""
    modules = (quick, curves)
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.deep
@pytest.mark.usefixtures("on_workers")
def test_a_search_loses_nothing_with_a_node(
    cluster: Cluster, open_ledger: Open, space: SearchSpace, tmp_path: Path
) -> None:
    """A node dies without a word while the defaults train on it; they go on elsewhere from their checkpoint."""
    ledger = open_ledger()
    run = tmp_path / "run"
    context = quick_context(run, ONE_SLOT, checkpoints=(tmp_path / "storage").as_uri())
    (run / "store").mkdir()
    (run / "store" / "index.json").write_text("{}")
    died: list[str] = []
    ended: list[int] = []

    def on_event(event: Event) -> None:
        if event.kind == "finished":
            ended.append(event.trial.number)
        if not died and event.trial.number == DEFAULTS and len(event.trial.curve) == 4:
            died.append(read_diary(context, DEFAULTS)[-1][0])
            write_text_atomically(context.folder / quick.KILLED, died[0])
            (node,) = [node for node in cluster.worker_nodes if node.node_id == died[0]]
            cluster.remove_node(node, allow_graceful=False)

    conductor = Conductor(
        ledger, space, Asha(1, 3, EPOCHS), budget=BudgetConfig(trials=TRIALS), epochs=EPOCHS, on_event=on_event
    )
    with ray_running(ONE_SLOT, cluster.address):
        assert len(cluster_nodes()) == 3
        there = replace(context, slots=slots_on_cluster(ONE_GPU_EACH, context.store, None))
        assert (there.slots.at_once, there.slots.gpu_share, there.slots.device) == (2, 1.0, "cuda")
        with pytest.raises(InputError, match=r"no node of the cluster .* lower resources.threads"):
            cluster_slots(ResourcesConfig(threads=2, trials_per_gpu=1))
        with pytest.raises(InputError, match=r"node [\d.]+ cannot read the compiled cohort; share it"):
            check_nodes(cluster_nodes(), OnLocalDisk(tmp_path), "the compiled cohort", "share it")
        run_trials(conductor, there, QuickActor)
        assert len(cluster_nodes()) == 2  # left as it is, but for the one that died

    trials = ledger.trials()
    assert not [trial.reason for trial in trials if trial.outcome == Outcome.CRASHED]
    assert len(trials) == TRIALS
    assert {trial.outcome for trial in trials} == {Outcome.COMPLETED, Outcome.PRUNED}
    assert sorted(ended) == list(range(TRIALS))
    diary = read_diary(context, DEFAULTS)
    before = [epoch for node, epoch in diary if node == died[0]]
    after = [epoch for node, epoch in diary if node != died[0]]
    assert before[:4] == [1, 2, 3, 4]
    assert after[0] in (before[-1], before[-1] + 1)  # at most the epoch that was in the air is trained twice
    assert after[-1] == EPOCHS
    for trial in trials:
        expected = [curves.dice_after(space.config(trial.params), epoch + 1) for epoch in range(len(trial.curve))]
        assert list(trial.curve) == expected
        kept = json.loads((tmp_path / "storage" / "run" / "trials" / str(trial.number) / "last.pt").read_text())
        assert kept[: len(trial.curve)] == expected
    assert not list(context.folder.glob("*/"))  # trainings left nothing but their diaries in the run folder


@pytest.fixture
def uneven_cluster() -> Iterator[Cluster]:
    """A head that runs no trials, and two nodes without GPUs, one of which lends twice the memory of the other."""
    made = Cluster(initialize_head=True, head_node_args=HEAD)
    try:
        for share in (2, 1):
            made.add_node(num_cpus=3, num_gpus=0, memory=share * SMALL_NODE)
        yield made
    finally:
        made.shutdown()


@pytest.mark.deep
def test_a_cluster_is_packed_by_memory_that_is_measured_on_its_smallest_node(
    uneven_cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = {"T": {"choice": [1, 2]}, "optim.lr": {"log": [1e-4, 1e-2]}}
    spec = Spec(training=TINY, cohort=CohortConfig(image_size=SIDE, fallback="phantom"), search=ranges)
    space = SearchSpace(ranges, TINY, "file")
    run = Run(spec, RunFolder(tmp_path), tmp_path, Display(), "file")
    weights = run.folder.memory
    with ray_running(ONE_SLOT, uneven_cluster.address):
        planned = cluster_slots(spec.resources)
        run.slots = planned
        slots = slots_measured_there(run)

    assert planned.at_once == 6
    assert slots.memory is not None
    assert slots.memory.pool_bytes == SMALL_NODE
    assert slots.memory == recall_memory(space, SIDE, weights, main_memory(SMALL_NODE))
    assert {shape.config.T for shape in slots.memory.peaks} == {1, 2}
    shares = slots.memory.smallest_share, slots.memory.largest_share
    assert 0 < min(shares) <= max(shares) <= 1
    assert slots.at_once == sum(min(3, math.floor(size / min(shares))) for size in (1, 2))
    assert "planned for the smallest, 0.9 GB" in capsys.readouterr().out


# --- the files in cluster/ ------------------------------------------------------------------------------

FOLDER = Path(__file__).parents[3] / "cluster"
COMMAND = "run_search.py --space spaces/lcnn.yaml"


def test_the_launchers_file_is_valid_by_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (FOLDER / "ray-cluster.yaml").read_text(encoding="utf-8")
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    (workers,) = config["available_node_types"].values()
    assert workers["min_workers"] == workers["max_workers"] == len(config["provider"]["worker_ips"])
    # The command stands in a comment: the launcher runs nothing by itself.
    assert COMMAND in text


def test_the_job_of_kubernetes_has_the_structure_that_kuberay_asks_for() -> None:
    """KubeRay's own schema is in no Python package; this looks at names and nesting alone."""
    job = yaml.safe_load((FOLDER / "rayjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert COMMAND in spec["entrypoint"]
    assert spec["rayClusterSpec"]["rayVersion"] == ray.__version__
    head, workers = spec["rayClusterSpec"]["headGroupSpec"], spec["rayClusterSpec"]["workerGroupSpecs"]
    for group in (head, *workers):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert group["rayStartParams"] is not None
        for container in pod["containers"]:
            assert container["image"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for group in workers:
        assert group["groupName"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("file", ["ray-cluster.yaml", "rayjob.yaml"])
def test_the_commands_of_the_files_parse(file: str) -> None:
    import run_search

    text = re.sub(r"[\\#\s]+", " ", (FOLDER / file).read_text(encoding="utf-8"))
    found = re.search(r"python run_search\.py ([^\"]*)\"", text)
    assert found is not None
    options = run_search.parse(found[1].split())
    assert (options.address, options.profile) == ("auto", "gpu")
    assert (FOLDER.parent / options.space).is_file()
    load_spec(FOLDER.parent / options.space, Overrides("gpu", tuple(options.set)), has_gpu=False)
