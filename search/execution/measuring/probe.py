"""Measures the profiles of a space: one real training after the other, each in a process of its own.

A use is the peak of all memory that the process has: the tensors of two steps and a validation batch, and what a
worker takes without a training (interpreter and libraries; on a GPU, the context). On a GPU it is what the pool
counts as taken once the allocator has had its peak, so whatever else runs on the pool is counted with it. On a CPU
it is the process's largest resident memory, without those pages of the libraries that it shares untouched.

Weights are kept in the run folder. A later session on the same device does not measure again; another device does.
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
from lcnn.dotted import RENAMED
from lcnn.training.fit import is_out_of_memory
from search.errors import RunFailed
from search.placement.memory import (
    PROFILE_FIELDS,
    SHARES,
    Grid,
    MemoryPlan,
    MemoryProfile,
    profile_grid,
    share_of,
    space_profiles,
)
from search.placement.rehearsal import Rehearsal
from search.spec.space import SearchSpace

STEPS = 2
"""The first one makes the optimizer's moments; from the second on, all is there at once."""
RAM_SHARE = 0.8
"""Of the main memory that is free before a search, what trials may have; Ray and this process need the rest."""


@dataclass(frozen=True)
class MemoryPool:
    """What a training's memory is a share of."""

    name: str
    total_bytes: int
    shares: int
    """A share of it is a multiple of one in so many."""


@dataclass(frozen=True)
class MemoryUse:
    """What one training was seen to take."""

    peak_bytes: float
    """Infinity: it ran out of memory."""
    context_bytes: int
    """Of it, all that is no tensor of the training."""


MeasureMemory = Callable[[MemoryProfile], MemoryUse]


def plan_memory(
    space: SearchSpace,
    image_size: int,
    path: Path,
    pool: MemoryPool,
    measure: MeasureMemory,
    on_measured: Callable[[int, int], None] = lambda done, total: None,
    *,
    windows: int = 1,
) -> MemoryPlan:
    """MeasureMemory every profile that the space can propose, and leaner ones of those that do not fit.

    Args:
        space: what can be proposed.
        image_size: side of the pictures in pixels.
        path: where uses are kept.
        pool: what they must fit.
        measure: measures one profile; see `measurer_in`.
        on_measured: called with how many profiles of how many are done.
        windows: in which slices come.

    Raises:
        InputError: the file of an earlier session is damaged.
        RunFailed: a training broke off for another reason than memory.
    """
    grid = profile_grid(space)
    profiles = space_profiles(space, grid, image_size, windows)
    uses = read_memory_uses(path, pool)
    for done, profile in enumerate(profiles):
        on_measured(done, len(profiles))
        while (unmeasured := _unmeasured(profile, uses, pool)) is not None:
            uses[unmeasured] = measure(unmeasured)
            write_memory_uses(path, pool, uses)
    return _plan(image_size, windows, grid, pool, uses)


def recall_memory(
    space: SearchSpace, image_size: int, path: Path, pool: MemoryPool, *, windows: int = 1
) -> MemoryPlan | None:
    """The plan from the uses of earlier sessions; None where a profile has not been measured on such a pool.

    Raises:
        InputError: the file of an earlier session is damaged.
    """
    grid = profile_grid(space)
    uses = read_memory_uses(path, pool)
    if any(_unmeasured(profile, uses, pool) for profile in space_profiles(space, grid, image_size, windows)):
        return None
    return _plan(image_size, windows, grid, pool, uses)


def _unmeasured(
    profile: MemoryProfile, uses: Mapping[MemoryProfile, MemoryUse], pool: MemoryPool
) -> MemoryProfile | None:
    """The next to measure of a profile and its leaner ones, of which the first that fits is the last."""
    for leaner in profile.leaner():
        if leaner not in uses:
            return leaner
        if share_of(uses[leaner].peak_bytes, pool.total_bytes, pool.shares) <= 1:
            return None
    return None


def _plan(
    image_size: int, windows: int, grid: Grid, pool: MemoryPool, uses: Mapping[MemoryProfile, MemoryUse]
) -> MemoryPlan:
    return MemoryPlan(
        pool_bytes=pool.total_bytes,
        context_bytes=max((use.context_bytes for use in uses.values()), default=0),
        image_size=image_size,
        grid=grid,
        peaks={profile: use.peak_bytes for profile, use in uses.items()},
        shares=pool.shares,
        windows=windows,
    )


# --- the file ----------------------------------------------------------------------------------------------------


def write_memory_uses(path: Path, pool: MemoryPool, uses: dict[MemoryProfile, MemoryUse]) -> None:
    """Keep the uses, with the device that they were seen on."""
    rows = [
        {
            **profile.fields(),
            "image_size": profile.image_size,
            "windows": profile.windows,
            "peak_bytes": None if math.isinf(use.peak_bytes) else use.peak_bytes,
            "context_bytes": use.context_bytes,
        }
        for profile, use in uses.items()
    ]
    content = {"device": pool.name, "total_bytes": pool.total_bytes, "trainings": rows}
    write_text_atomically(path, json.dumps(content, indent=1) + "\n")


def read_memory_uses(path: Path, pool: MemoryPool) -> dict[MemoryProfile, MemoryUse]:
    """The uses of an earlier session on the same device; nothing where there was none.

    Raises:
        InputError: the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["device"] != pool.name:
            return {}
        uses = dict(map(_read_row, content["trainings"]))
        # What ran out of memory may fit where more of it is free.
        roomier = pool.total_bytes > content["total_bytes"]
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(f"{path}: damaged ({first_line(error)}); delete it, and memory is measured again") from error
    return {profile: w for profile, w in uses.items() if not (roomier and math.isinf(w.peak_bytes))}


def _read_row(row: dict[str, Any]) -> tuple[MemoryProfile, MemoryUse]:
    # Earlier versions knew one window only, and did not say so.
    windows = int(row.get("windows", 1))
    values = {RENAMED.get(name, name): value for name, value in row.items()}
    profile = MemoryProfile.from_fields(
        {name: values[name] for name in PROFILE_FIELDS}, int(row["image_size"]), windows
    )
    peak = row["peak_bytes"]
    return profile, MemoryUse(math.inf if peak is None else float(peak), int(row["context_bytes"]))


# --- processes ---------------------------------------------------------------------------------------------------


class ForkServer:
    """Runs functions in processes of their own, which start at once with all libraries in place; a context manager.

    On Linux they are forked off one process that has imported what a worker imports and done nothing else. It takes
    seconds to start, and does so with the first function.
    """

    def __init__(self) -> None:
        self._server: Connection | None = None

    def __enter__(self) -> "ForkServer":
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
    # What a worker has in memory before it trains.
    from lcnn.network.torchvision_models import torchvision_models  # noqa: PLC0415
    from search.execution import trial  # noqa: F401, PLC0415

    torchvision_models()
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
    """Where functions are run for the sake of what they take; see `ForkServer`."""

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What ``work`` answers; None where it was killed."""
        ...


def find_pool(fork_server: Bench, device: str, gpus: int) -> MemoryPool:
    """The smallest of the GPUs, or the free main memory; looked at in a process that lets go of the GPU again."""
    if device == "cpu":
        return main_memory(int(RAM_SHARE * free_memory()))
    pool: MemoryPool | None = fork_server.run(smallest_gpu, gpus)
    if pool is None:
        raise RunFailed("the GPU cannot be looked at: the process was killed")
    return pool


def main_memory(total_bytes: int) -> MemoryPool:
    """So much of a computer's memory, as the pool of trainings on its CPU."""
    return MemoryPool(f"cpu {platform.machine()}, torch {torch.__version__}", total_bytes, SHARES["cpu"])


def smallest_gpu(gpus: int) -> MemoryPool:
    """The smallest of this computer's first so many GPUs."""
    pools = [torch.cuda.get_device_properties(index) for index in range(gpus)]
    smallest = min(pools, key=lambda pool: pool.total_memory)
    return MemoryPool(f"{smallest.name}, torch {torch.__version__}", smallest.total_memory, SHARES["cuda"])


def measurer_in(fork_server: Bench, device: str, threads: int, pool: MemoryPool) -> MeasureMemory:
    """Measures a profile by training it in a process of its own."""

    def measure(profile: MemoryProfile) -> MemoryUse:
        use: MemoryUse | None = fork_server.run(_measure_memory, profile, device, threads, pool.total_bytes)
        return use or MemoryUse(math.inf, 0)

    return measure


def _measure_memory(profile: MemoryProfile, device: str, threads: int, limit_bytes: int) -> MemoryUse:
    from search.execution.trial import settle_process  # noqa: PLC0415  (it brings Ray, which only workers need)

    settle_process(threads, device)
    scale = _GpuScale() if device == "cuda" else _CpuScale(limit_bytes)
    try:
        rehearsal = Rehearsal(profile.config, profile.image_size, torch.device(device), profile.windows)
        for _ in range(STEPS):
            rehearsal.step()
        rehearsal.validate()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return MemoryUse(math.inf, 0)
    return scale.read()


class _GpuScale:
    """Reads what this process takes of its GPU."""

    def read(self) -> MemoryUse:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        return MemoryUse(context + torch.cuda.max_memory_reserved(), context)


class _CpuScale:
    """Reads the largest resident memory of this process, which may not outgrow the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._before = peak_resident_bytes()
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        # Libraries reserve more than they use, so the limit is on what is added to it.
        limit = _status_bytes("VmData") + limit_bytes
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))

    def read(self) -> MemoryUse:
        return MemoryUse(peak_resident_bytes(), self._before)


def peak_resident_bytes() -> int:
    """The largest resident memory that this process has had."""
    # Linux hands ru_maxrss down from the process that started this one.
    if found := _status_bytes("VmHWM"):
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _status_bytes(name: str) -> int:
    status = Path("/proc/self/status")
    return bytes_in(status.read_text(encoding="utf-8").splitlines(), name) if status.exists() else 0
