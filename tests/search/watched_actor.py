"""The actor of a search that writes down, at every step, what it sees of its process."""

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lcnn.config import TrainConfig
from search.execution.trial import TrialActor
from search.execution.tune_search import ray_running
from search.placement.resources import Slots

WAIT_S = 90.0
HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


@contextmanager
def ray_that_finds_us(slots: Slots) -> Iterator[None]:
    """Ray, whose workers can import the actors of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(HERE))))
        with ray_running(slots):
            yield


def global_state() -> dict[str, Any]:
    """All of torch's settings that outlive a training."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        "grad": torch.is_grad_enabled(),
        "seed": torch.initial_seed(),
        "rng": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
    }


def disturb() -> None:
    """Leave everything as no training should find it."""
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002  (the global generator is what is to be disturbed)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All steps of all actors, in the order of their ends."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class WatchedActor(TrialActor):
    """Logs every step beside the trials' folder."""

    def step(self) -> dict[str, Any]:
        log = self._context.folder.parent / "steps.jsonl"
        entry: dict[str, Any] = {
            "number": self.config["number"],
            "share": self.config["share"],
            "config": json.loads(self.config["config"]),
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "pid": os.getpid(),
        }
        self._write(log, {**entry, "event": "begin"})
        result = super().step()
        self._write(log, {**entry, "event": "end", "rss": _resident_bytes(), "state": global_state()})
        return result

    @staticmethod
    def _write(log: Path, entry: dict[str, Any]) -> None:
        with log.open("a") as file:
            file.write(json.dumps({**entry, "time": time.monotonic()}) + "\n")


class DisturbedActor(WatchedActor):
    """Leaves a mess between two trials."""

    def cleanup(self) -> None:
        super().cleanup()
        disturb()


class WaitingActor(WatchedActor):
    """Trials 0 and 1 each wait for the other to have begun before they take a step."""

    def step(self) -> dict[str, Any]:
        marks = self._context.folder.parent / "marks"
        marks.mkdir(exist_ok=True)
        (marks / str(self.config["number"])).touch()
        deadline = time.monotonic() + WAIT_S
        while self.config["number"] in (0, 1) and not all((marks / name).exists() for name in "01"):
            if time.monotonic() > deadline:
                raise TimeoutError("the other trial does not run beside this one")
            time.sleep(0.05)
        return super().step()


def train_config(entry: dict[str, Any]) -> TrainConfig:
    """The configuration of a logged step."""
    return TrainConfig.model_validate_json(json.dumps(entry["config"]))
