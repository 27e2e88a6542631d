"""Processes that a test has started."""

import subprocess
from pathlib import Path


def children(parent: int) -> dict[str, int]:
    """The processes that a process has started itself, by name."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=2) for line in table.splitlines())
    return {Path(name).name: int(pid) for pid, ppid, name in rows if int(ppid) == parent}
