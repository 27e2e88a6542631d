"""How fast a training is, and why: steps, their parts, their data, and what a GPU makes of them.

    python -m experiments.speed                                    the cpu profile of spaces/lcnn.yaml
    python -m experiments.speed --profile gpu --out speed.json     the full size; on a CPU it takes hours
    python -m experiments.speed --only parts data --cohort DATA    some sections of it; your own slices

steps  Time and peak memory of one training step (forward, loss, backward, optimizer) on synthetic stacks: LCNN and
       MONAI's networks of like size, in float32 and under bf16 autocast, compiled, and with channels last. The
       contenders take turns, so that all see the same machine; the time is the median of the rounds. Compiling for
       a CPU takes minutes a network; --variants fp32 bf16 channels_last leaves it out.
parts  Where the time of a real training step goes, waiting for data included. See experiments/step_parts.py.
data   Stacks a second from the compiled cohort, and decoded from its PNG files.
gpu    Mixed precision against float32 on a GPU, and how near the pool's own speed a step comes.

Peak memory is what the tensors of a contender take at most: its weights, gradients and moments, the batch, and all
that a step allocates. On a GPU the allocator counts it; on a CPU torch's profiler does, allocation by allocation. It
is without what libraries and the interpreter need. The growth of the process's resident memory over a step was the
same to within 3% where every tensor had pages of its own (MALLOC_MMAP_THRESHOLD_=65536), but otherwise depended on
what had run before in the process.

The synthetic cohort is built where no --cohort is given.
"""

import argparse
import copy
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from data_prep.cohort.compiled import CompiledCohort, compile_cohort
from data_prep.cohort.layout import MANIFEST
from data_prep.cohort.pixels import in_chosen_windows, pixels_of
from data_prep.cohort.store import read_mask, read_windows
from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import write_text_atomically
from data_prep.common.machine import available_cores
from data_prep.phantom.cohort import build_phantom_cohort
from data_prep.preprocessing.framing import to_stored
from data_prep.preprocessing.head import Box
from data_prep.volumes.mask import from_grey, lesion_in
from experiments.networks import BASELINES, network, parameters
from experiments.step_parts import Part, profiling, take_apart
from lcnn.config import TrainConfig
from lcnn.network.stacks import StackSource, channels, neighbours
from lcnn.training.fit import TrainingData, make_optimizer
from lcnn.training.loss import lcnn_loss
from search.placement.rehearsal import usual_normalisation
from search.placement.resources import this_machine
from search.run.prepare import PHANTOM_PREFIX, find_cohort, phantom_key
from search.spec.settings import Overrides, Spec, load_spec

WARM_UP = 2
"""Steps of each contender that are not counted; the first one compiles."""
STEPS = 4
"""Steps of an epoch in which a step is taken apart."""
STACKS = 32
"""Stacks read in one round of the data part."""
LEAN_LIMIT, DATA_LIMIT = 0.15, 0.05
"""Largest shares of a step for alignment, attention and fusion together, and for waiting for data."""
DECODE_TARGET = 20.0
"""How many times as fast as decoding the store is to be."""
AMP_SPEED_TARGET, AMP_MEMORY_TARGET = 2.0, 0.65
"""Mixed precision against float32 on a GPU: at least so many times the stacks a second, at most so much memory."""
MATRIX_SIDE, PRODUCTS = 8192, 10
"""Side of the matrices whose product is timed, and products in a round."""


@dataclass(frozen=True)
class Variant:
    """How a network is run."""

    bf16: bool = False
    """Forward pass under bf16 autocast instead of in float32."""
    compiled: bool = False
    channels_last: bool = False


VARIANTS: Mapping[str, Variant] = {
    "fp32": Variant(),
    "bf16": Variant(bf16=True),
    "compile": Variant(compiled=True),
    "channels_last": Variant(channels_last=True),
    "all": Variant(bf16=True, compiled=True, channels_last=True),
}
NETWORKS = ("lcnn", *BASELINES)
REFERENCE = ("lcnn", "fp32")
"""The contender that all are measured against."""


class Batch(NamedTuple):
    """What one training step sees."""

    grey_BDSS: Tensor
    """Grey values 0..255, float32."""
    lesion_BSS: Tensor
    """Lesion shares 0..1, float32."""


def synthetic_batch(config: TrainConfig, image_size: int, device: torch.device, windows: int = 1) -> Batch:
    """Noise with a tenth of it lesion."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.train.batch_size, channels(config.T, windows), image_size, image_size)
    grey = torch.rand(shape, generator=generator) * 255
    lesion = (torch.rand(shape[0], *shape[2:], generator=generator) < 0.1).float()
    return Batch(grey.to(device), lesion.to(device))


class Contender:
    """A network with its optimizer and a batch; changes ``model`` to run as its variant says."""

    def __init__(self, model: nn.Module, variant: Variant, config: TrainConfig, batch: Batch) -> None:
        self.model, self._variant, self._config, self._batch = model.train(), variant, config, batch
        self.device = batch.grey_BDSS.device
        if variant.channels_last:
            # Module.to takes one format for all weights, but 3D and 2D convolutions have one each.
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            for weight in model.parameters():
                weight.data = weight.data.to(memory_format=formats.get(weight.ndim, torch.preserve_format))
            self._batch = batch._replace(grey_BDSS=batch.grey_BDSS.to(memory_format=torch.channels_last))
        if variant.compiled:
            model.compile()
        self.optimizer = make_optimizer(model, config.optim)

    def step(self) -> None:
        """One training step, that of `lcnn.training.fit` without its checks; returns when the device is through."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._variant.bf16):
            prediction = self.model(self._batch.grey_BDSS)
        loss = lcnn_loss(prediction, self._batch.lesion_BSS, self._config.loss)
        self.optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._config.train.clip_norm)
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def step_s(self) -> float:
        """Seconds that a step takes."""
        started = time.perf_counter()
        self.step()
        return time.perf_counter() - started

    def peak_bytes(self) -> int:
        """Most bytes that its tensors take at once; see the module's text. To be called after a first step."""
        self.optimizer.zero_grad()
        moments = [x for state in self.optimizer.state.values() for x in state.values() if isinstance(x, Tensor)]
        kept = [*self.model.parameters(), *self.model.buffers(), *moments, *self._batch]
        return sum(tensor.nbytes for tensor in kept) + peak_allocation(self.step, self.device)


def peak_allocation(work: Callable[[], None], device: torch.device) -> int:
    """Most bytes at once that ``work`` allocates on the device beyond what was allocated before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profiling(memory=True) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    # The trace's own totals are no use: they still hold what an earlier profile saw allocated and nobody saw freed.
    live: dict[int, int] = {}
    peak = total = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            live[address] = size
            total += size
        else:
            total -= live.pop(address, 0)
        peak = max(peak, total)
    return peak


@dataclass(frozen=True)
class StepRow:
    """One contender's figures."""

    network: str
    variant: str
    parameters: int
    step_ms: float | None = None
    """Median of the rounds; None where the contender cannot run."""
    ratio: float | None = None
    """Its time as a multiple of LCNN's in float32."""
    peak_mb: float | None = None
    failure: str | None = None
    """Why it cannot run."""


def measure_steps(
    config: TrainConfig,
    image_size: int,
    device: torch.device,
    *,
    networks: Sequence[str],
    variants: Sequence[str],
    rounds: int,
    windows: int = 1,
) -> list[StepRow]:
    """A row for each network in each variant, and for the reference, which is always measured."""
    batch = synthetic_batch(config, image_size, device, windows)
    pairs = dict.fromkeys([REFERENCE, *((name, variant) for name in networks for variant in variants)])
    models = {name: _make_model(name, config, device, windows) for name in {name for name, _ in pairs}}
    rows: dict[tuple[str, str], StepRow] = {}
    running: dict[tuple[str, str], Contender] = {}
    for pair in pairs:
        name, variant = pair
        rows[pair] = StepRow(name, variant, parameters(models[name]))
        try:
            contender = Contender(copy.deepcopy(models[name]), VARIANTS[variant], config, batch)
            for _ in range(WARM_UP):
                contender.step()
            rows[pair] = replace(rows[pair], peak_mb=contender.peak_bytes() / 1e6)
            running[pair] = contender
        except (RuntimeError, ValueError, OSError, ImportError) as error:
            # No compiler, no memory, a picture that cannot be halved often enough, or a package of MONAI's is missing.
            if pair == REFERENCE:
                raise
            rows[pair] = replace(rows[pair], failure=first_line(error))
    rounds_s = [{pair: contender.step_s() for pair, contender in running.items()} for _ in range(rounds)]
    step_s = {pair: median(round_s[pair] for round_s in rounds_s) for pair in running}
    for pair, seconds in step_s.items():
        rows[pair] = replace(rows[pair], step_ms=1e3 * seconds, ratio=seconds / step_s[REFERENCE])
    return list(rows.values())


def _make_model(name: str, config: TrainConfig, device: torch.device, windows: int = 1) -> nn.Module:
    torch.manual_seed(config.train.seed)
    return network(name)(config, usual_normalisation(windows)).to(device)


@dataclass(frozen=True)
class Rate:
    """How fast stacks come from one source."""

    source: str
    stacks_a_second: float
    store_is_faster: float
    """Speed of the store as a multiple of this one."""


class PngStacks:
    """The stacks of a `StackSource` over all patients, decoded from the cohort's files."""

    def __init__(self, data: CompiledCohort, source: StackSource, half_width: int) -> None:
        self._data, self._source, self._half_width = data, source, half_width
        self._pixels = in_chosen_windows(pixels_of(data.cohort), data.store.picture.intensity_window, str(data.root))

    def decode(self, position: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Box]:
        """Native slices (D, K, H, W) and mask (H, W; lesion 255) of one stack, and the crop that belongs to them."""
        patient = self._data.cohort.patients[self._source.owner[position]]
        entry = self._data.store.patients[patient.id]
        centre = self._source.centres[position] - entry.start
        stack = neighbours(np.array([centre]), self._half_width, 0, entry.slice_count - 1)[0]
        grey_DKHW = read_windows([self._data.root / patient.images[index] for index in stack], self._pixels)
        mask_HW = read_mask(self._data.root / patient.masks[centre])
        return grey_DKHW, lesion_in(from_grey(mask_HW)) * np.uint8(255), Box(*entry.box)

    def batch(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """What `StackSource.batch` gives, the slow way."""
        side = self._data.store.picture.image_size
        grey, lesion = [], []
        for position in positions:
            grey_DKHW, mask_HW, box = self.decode(int(position))
            grey.append(np.stack([to_stored(slice_HW, box, side) for grey_KHW in grey_DKHW for slice_HW in grey_KHW]))
            lesion.append(to_stored(mask_HW, box, side))
        return torch.from_numpy(np.stack(grey)), torch.from_numpy(np.stack(lesion))


def measure_data(data: CompiledCohort, config: TrainConfig, *, rounds: int) -> list[Rate]:
    """Stacks a second from the store and from the files, read at random in batches of the training's size."""
    source = StackSource(data.store, list(data.store.patients), config.T)
    files = PngStacks(data, source, config.T)
    readers: dict[str, Callable[[NDArray[np.int64]], Any]] = {
        "store": source.batch,
        "PNG decoded, cropped, resized": files.batch,
        "PNG decoded": lambda positions: [files.decode(int(position)) for position in positions],
    }
    rng = np.random.default_rng(config.train.seed)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds + 1):
        positions = rng.integers(len(source), size=STACKS)
        batches = np.split(positions, range(config.train.batch_size, STACKS, config.train.batch_size))
        for name, read in readers.items():
            started = time.perf_counter()
            for batch in batches:
                read(batch)
            times[name].append(time.perf_counter() - started)
    # The first round brings files and store into the page cache.
    seconds = {name: median(values[1:]) for name, values in times.items()}
    return [Rate(name, STACKS / s, s / seconds["store"]) for name, s in seconds.items()]


@dataclass(frozen=True)
class GpuFigures:
    """Mixed precision against float32, and a step against the pool."""

    fp32_stacks_a_second: float
    bf16_stacks_a_second: float
    fp32_peak_gb: float
    bf16_peak_gb: float
    step_tflops: float
    """TFLOP/s that a step under bf16 autocast achieves, a multiply-add being two operations."""
    matrix_tflops: float
    """TFLOP/s of a large matrix product in bf16 on the same pool."""


def measure_gpu(
    config: TrainConfig,
    image_size: int,
    device: torch.device,
    *,
    rounds: int,
    matrix_side: int = MATRIX_SIDE,
    windows: int = 1,
) -> GpuFigures:
    """Steps of LCNN on synthetic stacks in both precisions by turns, and a matrix product."""
    batch = synthetic_batch(config, image_size, device, windows)
    model = _make_model("lcnn", config, device, windows)
    fp32, bf16 = (Contender(copy.deepcopy(model), VARIANTS[name], config, batch) for name in ("fp32", "bf16"))
    for _ in range(WARM_UP):
        fp32.step()
        bf16.step()
    peaks_gb = [contender.peak_bytes() / 1e9 for contender in (fp32, bf16)]
    times = [(fp32.step_s(), bf16.step_s()) for _ in range(rounds)]
    fp32_s, bf16_s = (median(values) for values in zip(*times, strict=True))
    with FlopCounterMode(display=False) as counter:
        bf16.step()
    stacks = config.train.batch_size
    return GpuFigures(
        fp32_stacks_a_second=stacks / fp32_s,
        bf16_stacks_a_second=stacks / bf16_s,
        fp32_peak_gb=peaks_gb[0],
        bf16_peak_gb=peaks_gb[1],
        step_tflops=counter.get_total_flops() / bf16_s / 1e12,
        matrix_tflops=_matrix_tflops(matrix_side, device, rounds),
    )


def _matrix_tflops(side: int, device: torch.device, rounds: int) -> float:
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    timer = Timer("left @ right", globals={"left": left, "right": right}, num_threads=torch.get_num_threads())
    return 2 * side**3 / median(timer.timeit(PRODUCTS).mean for _ in range(rounds)) / 1e12


def open_data(spec: Spec, cohort: Path | None, cache: Path) -> CompiledCohort:
    """The user's cohort, or the synthetic one of the spec, built below ``cache``; compiled there.

    Raises:
        InputError: no such cohort, or a broken one.
    """
    if cohort:
        root, _ = find_cohort(spec.cohort.model_copy(update={"root": str(cohort), "fallback": "none"}))
    else:
        root = cache / f"{PHANTOM_PREFIX}{phantom_key(spec.cohort.phantom)}"
        if not (root / MANIFEST).exists():
            build_phantom_cohort(root, spec.cohort.phantom, available_cores())
    return compile_cohort(root, cache, spec.cohort.picture)


@dataclass(frozen=True)
class Setup:
    """What one run measures, where and how often."""

    spec: Spec
    device: torch.device
    options: argparse.Namespace

    @property
    def config(self) -> TrainConfig:
        """The space file's own settings."""
        return self.spec.training

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.spec.cohort.image_size

    @property
    def windows(self) -> int:
        """Windows in which synthetic slices come."""
        return len(self.spec.cohort.intensity_window or ("one",))

    def data(self) -> CompiledCohort:
        """The cohort to read from."""
        return open_data(self.spec, self.options.cohort, self.options.cache)


def _steps(setup: Setup) -> Any:
    options = setup.options
    rows = measure_steps(
        setup.config,
        setup.size,
        setup.device,
        networks=options.networks,
        variants=options.variants,
        rounds=options.rounds,
        windows=setup.windows,
    )
    table: list[tuple[str, ...]] = [
        ("network", "variant", "parameters", "ms", f"x {' '.join(REFERENCE)}", "peak MB", "")
    ]
    for row in rows:
        figures = [
            f"{x:.{digits}f}" if x else "-" for x, digits in ((row.step_ms, 1), (row.ratio, 2), (row.peak_mb, 0))
        ]
        size = f"{row.parameters / 1e6:.2f} M"
        table.append((row.network, row.variant, size, *figures, row.failure or ""))
    print(f"A training step on synthetic stacks, median of {options.rounds} rounds")
    _print_table(table)
    return [asdict(row) for row in rows]


def _parts(setup: Setup) -> Any:
    store = setup.data().store
    data = TrainingData(store, tuple(store.patients), (), usual_normalisation(store.window_count))
    found = take_apart(setup.config, data, str(setup.device), rounds=setup.options.rounds, steps=STEPS)
    table = [("part", "forward ms", "backward ms", "share")]
    for part in found.parts:
        share = f"{found.share(part.part):.1%}"
        table.append((part.part.value, f"{part.forward_ms:.1f}", f"{part.backward_ms:.1f}", share))
    forward_ms, backward_ms = sum(p.forward_ms for p in found.parts), sum(p.backward_ms for p in found.parts)
    table.append(("sum", f"{forward_ms:.1f}", f"{backward_ms:.1f}", "100%"))
    print(f"A step of a real training taken apart, medians of {setup.options.rounds} epochs of {STEPS} steps")
    _print_table(table)
    print(
        f"by the training's own clock a step took {found.profiled_ms:.1f} ms with the profiler, "
        f"{found.plain_ms:.1f} ms without it"
    )
    lean, waiting = found.share(Part.ALIGNMENT, Part.ATTENTION, Part.FUSION), found.share(Part.DATA)
    print(f"alignment + attention + fusion: {lean:.1%} of the step ({_at_most(lean, LEAN_LIMIT, '.0%')})")
    print(f"waiting for data: {waiting:.1%} of the step ({_at_most(waiting, DATA_LIMIT, '.0%')})")
    return {**asdict(found), "sum_ms": found.sum_ms, "lean_share": lean, "waiting_share": waiting}


def _data(setup: Setup) -> Any:
    data = setup.data()
    rates = measure_data(data, setup.config, rounds=setup.options.rounds)
    native = sorted({entry.native for entry in data.store.patients.values()})
    print(
        f"Stacks from {data.cohort.name}, {data.cohort.slice_count} slices, "
        f"{' and '.join(f'{rows}x{columns}' for rows, columns in native[:2])} pixels in the files"
    )
    table = [("source", "stacks/s", "store is faster by")]
    _print_table(table + [(r.source, f"{r.stacks_a_second:.0f}", f"{r.store_is_faster:.1f} x") for r in rates])
    factor = rates[1].store_is_faster
    print(f"the store against decoding: {factor:.1f} times as fast ({_at_least(factor, DECODE_TARGET)})")
    return [asdict(rate) for rate in rates]


def _gpu(setup: Setup) -> Any:
    if setup.device.type != "cuda":
        print("GPU: unmeasured here; python -m experiments.speed --profile gpu --only gpu measures it")
        return None
    found = measure_gpu(setup.config, setup.size, setup.device, rounds=setup.options.rounds, windows=setup.windows)
    print(f"LCNN on {torch.cuda.get_device_name(setup.device)}; convolutions in fp32 may use TF32, torch's default")
    _print_table(
        [
            ("precision", "stacks/s", "peak GB"),
            ("fp32", f"{found.fp32_stacks_a_second:.1f}", f"{found.fp32_peak_gb:.2f}"),
            ("bf16", f"{found.bf16_stacks_a_second:.1f}", f"{found.bf16_peak_gb:.2f}"),
        ]
    )
    speed = found.bf16_stacks_a_second / found.fp32_stacks_a_second
    memory = found.bf16_peak_gb / found.fp32_peak_gb
    print(f"mixed precision: {speed:.2f} times as fast ({_at_least(speed, AMP_SPEED_TARGET)})")
    print(f"mixed precision: {memory:.2f} of the memory ({_at_most(memory, AMP_MEMORY_TARGET, '.2f')})")
    share = found.step_tflops / found.matrix_tflops
    print(
        f"a step achieves {found.step_tflops:.1f} TFLOP/s, {share:.1%} of the {found.matrix_tflops:.1f} of a product "
        f"of {MATRIX_SIDE}x{MATRIX_SIDE} matrices in bf16"
    )
    return {**asdict(found), "speed": speed, "memory": memory}


SECTIONS: Mapping[str, Callable[[Setup], Any]] = {"steps": _steps, "parts": _parts, "data": _data, "gpu": _gpu}
"""Each measures, prints its tables and answers with its figures."""


def _at_most(value: float, limit: float, form: str) -> str:
    return f"limit {limit:{form}}: {'met' if value <= limit else 'missed'}"


def _at_least(value: float, target: float) -> str:
    return f"target at least {target:g}: {'met' if value >= target else 'missed'}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print columns of equal width; the first row is their heads, and columns of figures stand to the right."""
    columns = [
        [cell.rjust(width) if column[1][:1].isdigit() else cell.ljust(width) for cell in column]
        for column in zip(*rows, strict=True)
        for width in [max(map(len, column))]
    ]
    for cells in zip(*columns, strict=True):
        print("  ".join(cells).rstrip())


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print what is asked for; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=Path("spaces/lcnn.yaml"))
    parser.add_argument("--profile", default="cpu", help="profile of the space file (default cpu)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure (default all)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="repetitions behind each median (default 7)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="contenders of steps")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="and how they are run")
    parser.add_argument("--cohort", type=Path, help="folder of a cohort to read from (default: the synthetic one)")
    parser.add_argument("--patients", type=int, default=8, help="patients of the synthetic cohort (default 8)")
    parser.add_argument("--cache", type=Path, default=Path("results/.cache"), help="where cohorts are built, compiled")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        raise InputError(f"--rounds: {options.rounds}; give at least 1")
    settings = (f"cohort.phantom.patients={options.patients}", *options.set)
    spec = load_spec(options.space, Overrides(options.profile, settings), has_gpu=torch.cuda.is_available())
    _run(Setup(spec, torch.device(this_machine(spec.resources).device), options))
    return 0


def _run(setup: Setup) -> None:
    config, threads = setup.config, setup.spec.resources.threads
    torch.set_num_threads(threads)
    device = torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else "CPU"
    machine = {
        "device": device,
        "cores": available_cores(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "profile": setup.spec.profile,
        "settings": config.model_dump(mode="json"),
        "image_size": setup.size,
    }
    print(
        f"{device}, {threads} of {available_cores()} cores, torch {torch.__version__}; {setup.size}x{setup.size}, "
        f"T {config.T}, width {config.model.width}, {config.model.global_backbone}, batch {config.train.batch_size}"
    )
    figures: dict[str, Any] = {"machine": machine}
    for name in setup.options.only:
        print()
        figures[name] = SECTIONS[name](setup)
    if setup.options.out:
        write_text_atomically(setup.options.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
