"""What has been sent to W&B: one line for each W&B run, added when it is written, so that nothing is sent twice."""

import json
import os
from pathlib import Path


class Manifest:
    """Reads and adds to the file.

    A line that a kill cut short counts as none, and its run is written again.

    Args:
        path: the file; it need not exist.
        target: where the runs go, for what one place knows another need not.
    """

    def __init__(self, path: Path, target: str) -> None:
        self._path, self._target = path, target
        self._digests: dict[str, str] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._read(line)

    def holds(self, run: str, digest: str) -> bool:
        """Whether the target has this run with this content."""
        return self._digests.get(run) == digest

    def add(self, run: str, digest: str) -> None:
        """Keep that the target has it; on the disk before this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._digests[run] = digest
        # The line break comes first: after one that was cut short, this line still stands on its own.
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps({"target": self._target, "run": run, "digest": digest}))
            file.flush()
            os.fsync(file.fileno())

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if entry["target"] == self._target:
            self._digests[entry["run"]] = entry["digest"]
