"""Builders of tiny cohorts, shared by the tests of this folder."""

import hashlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep.cohort.layout import scan_cohort
from data_prep.cohort.store import Store, compile_store
from data_prep.preprocessing.picture import PictureConfig


def save_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def fill_cohort(
    root: Path,
    *,
    patients: Sequence[str] = ("p1", "p2", "p10"),
    slices: Sequence[str] = ("1", "2", "10"),
    size: int = 32,
    folders: tuple[str, str] = ("images", "masks"),
    lesion: int | Sequence[int] = 6,
    seed: int = 0,
) -> Path:
    """Noise pictures with a black rim; the second slice holds a square lesion of ``lesion`` pixels a side."""
    rng = np.random.default_rng(seed)
    sides = [lesion] * len(patients) if isinstance(lesion, int) else lesion
    for patient, side in zip(patients, sides, strict=True):
        for number, name in enumerate(slices):
            image_HW = np.zeros((size, size), dtype=np.uint8)
            image_HW[4:-4, 4:-4] = rng.integers(40, 250, (size - 8, size - 8))
            mask_HW = np.zeros((size, size), dtype=np.uint8)
            if number == 1:
                mask_HW[8 : 8 + side, 8 : 8 + side] = 255
            save_picture(root / folders[0] / patient / f"{name}.png", image_HW)
            save_picture(root / folders[1] / patient / f"{name}.png", mask_HW)
    return root


def listing(root: Path) -> dict[str, tuple[int, str]]:
    """Every path below ``root``, hidden ones too, with its time and content."""
    return {
        path.relative_to(root).as_posix(): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder",
        )
        for path in [root, *root.rglob("*")]
    }


@pytest.fixture
def write_cohort(tmp_path: Path) -> Callable[..., Path]:
    """Write a cohort below ``tmp_path``; keywords are those of `fill_cohort`, and ``at`` names the folder."""
    return lambda at="cohort", **settings: fill_cohort(tmp_path / at, **settings)


@pytest.fixture
def write_picture() -> Callable[[Path, NDArray[np.uint8]], None]:
    return save_picture


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, tuple[int, str]]]:
    return listing


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Store]:
    """Compile the cohort under a root into ``tmp_path/cache``, at 16 pixels unless told."""

    def compiled_at(
        root: Path,
        *,
        image_size: int = 16,
        crop: str = "none",
        on_patient: Callable[[int, int], None] | None = None,
        **parts: bool,
    ) -> Store:
        picture = PictureConfig(image_size=image_size, crop=crop, **parts)
        return compile_store(scan_cohort(root), root, tmp_path / "cache", picture, on_patient=on_patient)

    return compiled_at


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True,
                          text=True, check=False)  # fmt: skip
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
