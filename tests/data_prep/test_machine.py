"""What a process may use: real affinity, a real control group where one can be made, and trees of both versions."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.common.machine import available_cores, free_memory

GB = 2**30
CHILD = "from data_prep.common.machine import available_cores, free_memory; print(available_cores(), free_memory())"
ROOT = Path(__file__).parents[2]


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A system with 8 GB free, whose process is in these control groups."""
    for name, text in {"proc/meminfo": f"MemAvailable: {8 * 2**20} kB\n", "proc/self/cgroup": groups, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
NONE = str(0x7FFFFFFFFFFFF000)


@pytest.mark.parametrize(
    ("groups", "files", "free_gb"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {f"{V2}/memory.max": "max", f"{V2}/memory.current": str(GB)}, 8),
        ("0::/\n", {f"{V2}/memory.max": str(3 * GB), f"{V2}/memory.current": str(GB)}, 2),
        (
            "0::/\n",
            {
                f"{V2}/memory.max": str(3 * GB),
                f"{V2}/memory.current": str(2 * GB),
                f"{V2}/memory.stat": f"anon 5\ninactive_file {GB}\n",
            },
            2,
        ),
        ("0::/a/b\n", {f"{V2}/a/memory.max": str(2 * GB), f"{V2}/a/b/memory.max": "max"}, 2),  # the one above limits
        ("0::/of/the/host\n", {f"{V2}/memory.max": str(GB)}, 1),
        ("4:memory:/job\n", {f"{V1}/job/memory.limit_in_bytes": str(4 * GB)}, 4),
        ("4:memory:/job\n", {f"{V1}/job/memory.limit_in_bytes": NONE}, 8),
        ("4:cpu,memory:/\n", {f"{V1}/memory.limit_in_bytes": str(GB), f"{V1}/memory.usage_in_bytes": str(2 * GB)}, 0),
        ("3:cpu:/job\n", {f"{V1}/job/memory.limit_in_bytes": str(GB)}, 8),
    ],
)
def test_memory_is_what_the_control_groups_leave(
    tmp_path: Path, groups: str, files: dict[str, str], free_gb: int
) -> None:
    assert free_memory(tree(tmp_path, groups, files)) == free_gb * GB


def test_this_machine_has_some_memory_and_cores() -> None:
    assert 0 < free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_is_seen() -> None:
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, mine)


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of our own."""
    made = Path("/sys/fs/cgroup/memory") / f"lcnn-test-{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here ({error.strerror})")
    yield made
    made.rmdir()


def test_the_limit_of_a_real_control_group_is_seen(group: Path) -> None:
    (group / "memory.limit_in_bytes").write_text(str(GB))
    into = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); {CHILD}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", into], capture_output=True, text=True, check=True, env=environment)
    assert 0 < int(done.stdout.split()[1]) <= GB
