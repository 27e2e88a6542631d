"""A cohort of a few small pictures, compiled: what a training takes seconds for."""

from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.cohort.compiled import compile_cohort
from data_prep.cohort.normalisation import Normalisation
from data_prep.preprocessing.picture import PictureConfig
from lcnn.config import TrainConfig
from search.execution.trial import TrialContext
from search.placement.resources import Slots

SIDE, SLICES = 32, 4
TINY = TrainConfig.model_validate(
    {
        "model": {"width": 4, "levels": 2, "window_size": 4, "heads": 2, "global_backbone": "resnext14_4x2d"},
        "train": {"epochs": 2, "batch_size": 2, "stacks_per_epoch": 4},
    }
)


def write_cohort(root: Path) -> None:
    """Noise with a bright square, which is the lesion, in every slice but the first."""
    rng = np.random.default_rng(0)
    for patient in "abc":
        for index in range(SLICES):
            grey = rng.integers(60, 120, (SIDE, SIDE))
            mask = np.zeros((SIDE, SIDE), dtype=int)
            if index:
                mask[8:20, 10:22] = 255
                grey[mask > 0] += 60
            for part, picture in (("images", grey), ("masks", mask)):
                file = root / part / patient / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(file)


def tiny_context(folder: Path, slots: Slots) -> TrialContext:
    """What trials share, with their files below ``folder``; the cohort is made where it is not there yet."""
    root = folder / "cohort"
    if not root.exists():
        write_cohort(root)
    store = compile_cohort(root, folder / "cache", PictureConfig(image_size=SIDE, crop="none")).store
    return TrialContext(folder / "trials", store.folder, ("a", "b"), ("c",), Normalisation(mean=100.0, std=30.0), slots)
