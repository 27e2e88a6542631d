"""What this process may use of the machine: cores and main memory, a container's limits included."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

UNLIMITED = 2**60
"""Bytes from which a limit of cgroups is none: version 1 says so by a number near 2**63."""


def available_cores() -> int:
    """Cores that this process may use: by its affinity and the CPU quota of its control groups."""
    from joblib import cpu_count  # noqa: PLC0415  (0.2 s, which --help need not wait for)

    return int(cpu_count())


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of main memory that new work can have; all there are where the system does not say.

    Args:
        root: where the system's folders proc and sys lie.
    """
    meminfo = root / "proc" / "meminfo"
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = bytes_in(meminfo.read_text(encoding="ascii").splitlines(), "MemAvailable")
    return max(0, min([free, *_free_in_groups(root)]))


def bytes_in(lines: Iterable[str], name: str) -> int:
    """A figure of a file of /proc, in bytes; 0 where it is not there."""
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def _free_in_groups(root: Path) -> Iterator[int]:
    """What each control group that limits this process has left (docs.kernel.org, cgroup-v2.rst and cgroup-v1/)."""
    groups = root / "proc" / "self" / "cgroup"
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            yield from _free_in_tree(root / "sys/fs/cgroup", path, names)
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _free_in_tree(root / "sys/fs/cgroup/memory", path, names)


def _free_in_tree(mount: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    """The same of a group and all above it; in a container the path may be the host's, and only the mount is seen."""
    limit_name, usage_name, reclaimable_name = names
    own = mount / path.strip("/")
    for group in (own, *(above for above in own.parents if above.is_relative_to(mount))):
        limit = _number(group / limit_name)
        if limit is not None and limit < UNLIMITED:
            # Pages of files that were read count as used, and are given up for whoever needs them.
            yield limit - (_number(group / usage_name) or 0) + _statistic(group / "memory.stat", reclaimable_name)


def _number(file: Path) -> int | None:
    """A limit or a usage; None where the file is not there or says that there is no limit."""
    text = file.read_text(encoding="ascii").strip() if file.exists() else "max"
    return None if text == "max" else int(text)


def _statistic(file: Path, name: str) -> int:
    lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
