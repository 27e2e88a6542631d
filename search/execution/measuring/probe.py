"""Weighs the shapes of a space: one real training after the other, each in a process of its own.

A weight is the peak of all memory that the process has: the tensors of two steps and a validation batch, and what a
worker takes without a training (interpreter and libraries; on a GPU, the context). On a GPU it is what the card
counts as taken once the allocator has had its peak, so whatever else runs on the card is counted with it. On a CPU
it is the process's largest resident memory, without those pages of the libraries that it shares untouched.

Weights are kept in the run folder. A later sitting on the same device does not weigh again; another device does.
"""

import json
import math
import multiprocessing
import platform
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError

from data_prep.common.errors import InputError, first_line
from data_prep.common.files import write_text_atomically
from data_prep.common.machine import bytes_in, free_memory
from lcnn.training.fit import is_out_of_memory
from search.errors import RunFailed
from search.placement.memory import SHAPE_FIELDS, SHARES, Grid, MemoryPlan, Shape, shape_grid, share_of, space_shapes
from search.placement.rehearsal import Rehearsal
from search.spec.space import SearchSpace

STEPS = 2
"""The first one makes the optimizer's moments; from the second on, all is there at once."""
RAM_SHARE = 0.8
"""Of the main memory that is free before a search, what trials may have; Ray and this process need the rest."""


@dataclass(frozen=True)
class Card:
    """What a training's memory is a share of."""

    name: str
    total_bytes: int
    shares: int
    """A share of it is a multiple of one in so many."""


@dataclass(frozen=True)
class Weight:
    """What one training was seen to take."""

    peak_bytes: float
    """Infinity: it ran out of memory."""
    context_bytes: int
    """Of it, all that is no tensor of the training."""


Weigh = Callable[[Shape], Weight]


def plan_memory(
    space: SearchSpace,
    image_size: int,
    path: Path,
    card: Card,
    weigh: Weigh,
    on_weighed: Callable[[int, int], None] = lambda done, total: None,
    *,
    windows: int = 1,
) -> MemoryPlan:
    """Weigh every shape that the space can propose, and leaner ones of those that do not fit.

    Args:
        space: what can be proposed.
        image_size: side of the pictures in pixels.
        path: where weights are kept.
        card: what they must fit.
        weigh: weighs one shape; see `weigh_in`.
        on_weighed: told how many shapes of how many are done.
        windows: in which slices come.

    Raises:
        InputError: the file of an earlier sitting is damaged.
        RunFailed: a training broke off for another reason than memory.
    """
    grid = shape_grid(space)
    shapes = space_shapes(space, grid, image_size, windows)
    weights = read_weights(path, card)
    for done, shape in enumerate(shapes):
        on_weighed(done, len(shapes))
        while (unweighed := _unweighed(shape, weights, card)) is not None:
            weights[unweighed] = weigh(unweighed)
            write_weights(path, card, weights)
    return _plan(image_size, windows, grid, card, weights)


def recall_memory(
    space: SearchSpace, image_size: int, path: Path, card: Card, *, windows: int = 1
) -> MemoryPlan | None:
    """The plan from the weights of earlier sittings; None where a shape has not been weighed on such a card.

    Raises:
        InputError: the file of an earlier sitting is damaged.
    """
    grid = shape_grid(space)
    weights = read_weights(path, card)
    if any(_unweighed(shape, weights, card) for shape in space_shapes(space, grid, image_size, windows)):
        return None
    return _plan(image_size, windows, grid, card, weights)


def _unweighed(shape: Shape, weights: Mapping[Shape, Weight], card: Card) -> Shape | None:
    """The next to weigh of a shape and its leaner ones, of which the first that fits is the last."""
    for leaner in shape.leaner():
        if leaner not in weights:
            return leaner
        if share_of(weights[leaner].peak_bytes, card.total_bytes, card.shares) <= 1:
            return None
    return None


def _plan(image_size: int, windows: int, grid: Grid, card: Card, weights: Mapping[Shape, Weight]) -> MemoryPlan:
    return MemoryPlan(
        card_bytes=card.total_bytes,
        context_bytes=max((weight.context_bytes for weight in weights.values()), default=0),
        image_size=image_size,
        grid=grid,
        peaks={shape: weight.peak_bytes for shape, weight in weights.items()},
        shares=card.shares,
        windows=windows,
    )


# --- the file ----------------------------------------------------------------------------------------------------


def write_weights(path: Path, card: Card, weights: dict[Shape, Weight]) -> None:
    """Keep the weights, with the device that they were seen on."""
    rows = [
        {
            **shape.fields(),
            "image_size": shape.image_size,
            "windows": shape.windows,
            "peak_bytes": None if math.isinf(weight.peak_bytes) else weight.peak_bytes,
            "context_bytes": weight.context_bytes,
        }
        for shape, weight in weights.items()
    ]
    content = {"device": card.name, "total_bytes": card.total_bytes, "trainings": rows}
    write_text_atomically(path, json.dumps(content, indent=1) + "\n")


def read_weights(path: Path, card: Card) -> dict[Shape, Weight]:
    """The weights of an earlier sitting on the same device; nothing where there was none.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["device"] != card.name:
            return {}
        weights = dict(map(_read_row, content["trainings"]))
        # What ran out of memory may fit where more of it is free.
        roomier = card.total_bytes > content["total_bytes"]
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path}: damaged ({first_line(error)}); delete it, and memory is measured again") from error
    return {shape: w for shape, w in weights.items() if not (roomier and math.isinf(w.peak_bytes))}


def _read_row(row: dict[str, Any]) -> tuple[Shape, Weight]:
    # Earlier versions knew one window only, and did not say so.
    windows = int(row.get("windows", 1))
    shape = Shape.from_fields({name: row[name] for name in SHAPE_FIELDS}, int(row["image_size"]), windows)
    peak = row["peak_bytes"]
    return shape, Weight(math.inf if peak is None else float(peak), int(row["context_bytes"]))


# --- processes ---------------------------------------------------------------------------------------------------


class Workshop:
    """Runs functions in processes of their own, which start at once with all libraries in place; a context manager.

    On Linux they are forked off one process that has imported what a worker imports and done nothing else. It takes
    seconds to start, and does so with the first function.
    """

    def __init__(self) -> None:
        self._server: Connection | None = None

    def __enter__(self) -> "Workshop":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            self._process.join()

    def _open(self) -> Connection:
        # Not forked off this process: it has threads, and by its end much in memory.
        context = multiprocessing.get_context("spawn")
        server, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end,))
        self._process.start()
        end.close()
        return server

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What ``work`` answers; None where the kernel killed it, as it does for want of memory.

        Raises:
            RunFailed: the process broke off otherwise.
        """
        self._server = self._server or self._open()
        try:
            self._server.send((work, arguments))
            exit_code, answer = self._server.recv()
        except (EOFError, ConnectionError) as error:
            raise RunFailed("measuring memory broke off: its process was killed") from error
        if exit_code not in (0, -signal.SIGKILL):
            raise RunFailed(f"measuring memory broke off with exit code {exit_code}; the reason is above")
        return answer


def _serve(requests: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    from search.execution import trial  # noqa: F401, PLC0415  (what a worker has in memory before it trains)

    linux = sys.platform == "linux"
    context = multiprocessing.get_context("fork") if linux else multiprocessing.get_context("spawn")
    while True:
        try:
            work, arguments = requests.recv()
        except EOFError:
            return
        answers, end = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(end, work, arguments), daemon=True)
        process.start()
        end.close()
        with answers:
            try:
                answer = answers.recv()
            except EOFError:
                answer = None
        process.join()
        requests.send((process.exitcode, answer))


def _answer(end: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    end.send(work(*arguments))


class Bench(Protocol):
    """Where functions are run for the sake of what they take; see `Workshop`."""

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What ``work`` answers; None where it was killed."""
        ...


def find_card(workshop: Bench, device: str, gpus: int) -> Card:
    """The smallest of the GPUs, or the free main memory; looked at in a process that lets go of the GPU again."""
    if device == "cpu":
        return main_memory(int(RAM_SHARE * free_memory()))
    card: Card | None = workshop.run(smallest_gpu, gpus)
    if card is None:
        raise RunFailed("the GPU cannot be looked at: the process was killed")
    return card


def main_memory(total_bytes: int) -> Card:
    """So much of a computer's memory, as the card of trainings on its CPU."""
    return Card(f"cpu {platform.machine()}, torch {torch.__version__}", total_bytes, SHARES["cpu"])


def smallest_gpu(gpus: int) -> Card:
    """The smallest of this computer's first so many GPUs."""
    cards = [torch.cuda.get_device_properties(index) for index in range(gpus)]
    smallest = min(cards, key=lambda card: card.total_memory)
    return Card(f"{smallest.name}, torch {torch.__version__}", smallest.total_memory, SHARES["cuda"])


def weigh_in(workshop: Bench, device: str, threads: int, card: Card) -> Weigh:
    """Weighs a shape by training it in a process of its own."""

    def weigh(shape: Shape) -> Weight:
        weight: Weight | None = workshop.run(_weigh, shape, device, threads, card.total_bytes)
        return weight or Weight(math.inf, 0)

    return weigh


def _weigh(shape: Shape, device: str, threads: int, limit_bytes: int) -> Weight:
    from search.execution.trial import settle_process  # noqa: PLC0415  (it brings Ray, which only workers need)

    settle_process(threads, device)
    scale = _GpuScale() if device == "cuda" else _CpuScale(limit_bytes)
    try:
        rehearsal = Rehearsal(shape.config, shape.image_size, torch.device(device), shape.windows)
        for _ in range(STEPS):
            rehearsal.step()
        rehearsal.validate()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Weight(math.inf, 0)
    return scale.read()


class _GpuScale:
    """Reads what this process takes of its GPU."""

    def read(self) -> Weight:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        return Weight(context + torch.cuda.max_memory_reserved(), context)


class _CpuScale:
    """Reads the largest resident memory of this process, which may not outgrow the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._before = peak_resident_bytes()
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        # Libraries reserve more than they use, so the limit is on what is added to it.
        limit = _status_bytes("VmData") + limit_bytes
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

    def read(self) -> Weight:
        return Weight(peak_resident_bytes(), self._before)


def peak_resident_bytes() -> int:
    """The largest resident memory that this process has had."""
    # Linux hands ru_maxrss down from the process that started this one.
    if found := _status_bytes("VmHWM"):
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def resident_bytes() -> int:
    """The resident memory of this process."""
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    status = Path("/proc/self/status")
    return bytes_in(status.read_text(encoding="utf-8").splitlines(), name) if status.exists() else 0
