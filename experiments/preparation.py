"""How fast a cohort is compiled, checked and measured, and that memory does not grow with it.

    python -m experiments.preparation                    both sections
    python -m experiments.preparation --only speed --cohort DATA
    python -m experiments.preparation --only memory --patients 10 1000

speed   Seconds for 1,000 slices of 512x512 pixels on all cores this process may use: compiled at 512 pixels, checked,
        measured. Without --cohort the slices are SYNTHETIC: noise in a disc, which PNG packs badly, so decoding them
        takes longer than real slices.
memory  Peak resident memory of a process that compiles, checks or measures cohorts of few small SYNTHETIC slices, for
        each number of patients; each in a process of its own (jobs 1).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.cohort.compiled import compile_cohort
from data_prep.cohort.layout import read_cohort
from data_prep.cohort.pixels import pixels_of
from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError
from data_prep.common.files import write_text_atomically
from data_prep.common.machine import available_cores
from data_prep.common.progress import in_processes
from data_prep.preprocessing.picture import PictureConfig
from data_prep.quality.cohort_check import check_cohort
from data_prep.quality.statistics import count_patient, row_of_all

SLICES, SIDE = 1000, 512
TARGET_S = 20.0
"""Most seconds that compiling may take, on two cores."""
SLICES_A_PATIENT = 25
SMALL_SLICES, SMALL_SIDE = 4, 48
SECTIONS = ("speed", "memory")


def write_noise(root: Path, *, patients: int, slices: int, side: int) -> None:
    """A cohort of discs of noise, a square of each labelled."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:side, :side] - side / 2
    disc = np.hypot(row, column) < 0.4 * side
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[side // 3 : side // 2, side // 3 : side // 2] = 255
    for patient in range(patients):
        for part in ("images", "masks"):
            (root / part / f"p{patient}").mkdir(parents=True)
        for number in range(slices):
            noise = rng.normal(100, 8, (side, side)).astype(np.uint8) * disc
            Image.fromarray(noise).save(root / "images" / f"p{patient}" / f"{number}.png")
            Image.fromarray(mask).save(root / "masks" / f"p{patient}" / f"{number}.png")


def _compile(root: Path, cache: Path, jobs: int, size: int) -> None:
    compile_cohort(root, cache, PictureConfig(image_size=size))


def _check(root: Path, cache: Path, jobs: int, size: int) -> None:
    check_cohort(root, jobs=jobs)


def _measure(root: Path, cache: Path, jobs: int, size: int) -> None:
    cohort = read_cohort(root)
    tasks = [(root, patient, pixels_of(cohort), cohort.has_ignored) for patient in cohort.patients]
    row_of_all([counts for _, counts in in_processes(count_patient, tasks, jobs=jobs, what="measuring")])


WORK: Mapping[str, Callable[[Path, Path, int, int], None]] = {"compile": _compile, "check": _check, "stats": _measure}


def measure_speed(root: Path) -> dict[str, float]:
    """Seconds for every thousand slices of the cohort at ``root``, for each kind of work."""
    slices = read_cohort(root).slice_count
    seconds = {}
    for name, work in WORK.items():
        with tempfile.TemporaryDirectory() as cache:
            started = time.perf_counter()
            work(root, Path(cache), available_cores(), SIDE)
            seconds[name] = (time.perf_counter() - started) * SLICES / slices
    return seconds


def measure_memory(patients: Sequence[int]) -> dict[str, dict[int, float]]:
    """Peak memory in MiB for each kind of work, by number of patients."""
    found: dict[str, dict[int, float]] = {name: {} for name in WORK}
    for count in patients:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "cohort"
            write_noise(root, patients=count, slices=SMALL_SLICES, side=SMALL_SIDE)
            for name in WORK:
                found[name][count] = _peak_mib(name, root, Path(folder) / name)
    return found


def _peak_mib(name: str, root: Path, cache: Path) -> float:
    command = [sys.executable, "-m", "experiments.preparation", "--work", name, str(root), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _work_alone(name: str, root: Path, cache: Path) -> None:
    WORK[name](root, cache, 1, SMALL_SIDE)
    print(_peak_bytes() / 2**20)


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands getrusage's peak on through exec, so it would be the measuring process's own.
        (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print what is asked for; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="what to measure (default both)")
    parser.add_argument("--cohort", type=Path, help="cohort to time (default: synthetic slices)")
    parser.add_argument("--patients", type=int, nargs="+", default=[10, 1000], help="sizes whose memory is compared")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--work", nargs=3, metavar=("WORK", "ROOT", "CACHE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        _work_alone(options.work[0], Path(options.work[1]), Path(options.work[2]))
        return 0
    if min(options.patients) < 1:
        raise InputError(f"--patients {min(options.patients)}: at least one is needed")
    figures = {name: _show_speed(options.cohort) for name in SECTIONS[:1] if name in options.only}
    if "memory" in options.only:
        figures["memory"] = _show_memory(options.patients)
    if options.out:
        write_text_atomically(options.out, json.dumps({"cores": available_cores(), **figures}, indent=1) + "\n")
    return 0


def _show_speed(cohort: Path | None) -> object:
    with tempfile.TemporaryDirectory() as folder:
        root = cohort or Path(folder) / "cohort"
        if cohort is None:
            write_noise(root, patients=SLICES // SLICES_A_PATIENT, slices=SLICES_A_PATIENT, side=SIDE)
        seconds = measure_speed(root)
    label = root.name if cohort else f"SYNTHETIC slices of {SIDE}x{SIDE}"
    print(f"seconds for {SLICES} slices on {available_cores()} cores, {label}")
    for name, value in seconds.items():
        print(f"  {name:<8} {value:6.1f}")
    print(f"compiling: limit {TARGET_S:g} s on two cores: {'met' if seconds['compile'] <= TARGET_S else 'missed'}")
    return seconds


def _show_memory(patients: Sequence[int]) -> object:
    found = measure_memory(patients)
    print(f"peak memory in MiB, {SMALL_SLICES} SYNTHETIC slices of {SMALL_SIDE}x{SMALL_SIDE} a patient, one process")
    print(f"  {'patients':<8}" + "".join(f"{count:>8}" for count in patients))
    for name, by_count in found.items():
        print(f"  {name:<8}" + "".join(f"{value:8.0f}" for value in by_count.values()))
    return found


if __name__ == "__main__":
    sys.exit(main())
