"""A tiny cohort of discs in heads, its compiled store, and small configurations; one thread for torch."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.cohort.layout import scan_cohort
from data_prep.cohort.normalisation import Normalisation
from data_prep.cohort.store import compile_store
from data_prep.preprocessing.picture import PictureConfig
from lcnn.config import TrainConfig
from lcnn.dotted import assign
from lcnn.network.torchvision_models import torchvision_models
from lcnn.training.fit import TrainingData

# Rows, columns, slices, lesion disc (row, column, radius) or None, slices with lesion, spacing in mm or None.
PATIENTS = {
    "a": (48, 48, 5, (20, 15, 6), (1, 2, 3), (5.0, 0.5, 0.6)),
    "b": (48, 40, 4, (26, 26, 6), (1, 2), None),
    "c": (48, 48, 5, None, (), None),
    "d": (48, 48, 4, (22, 33, 7), (0, 1, 2, 3), None),
    "e": (40, 48, 6, (18, 30, 5), (2, 3, 4), (4.0, 0.4, 0.4)),
    "f": (48, 48, 3, (25, 18, 6), (1,), None),
}
TINY = {
    "T": 1,
    "model": {"width": 4, "levels": 2, "window_size": 4, "heads": 2, "global_backbone": "resnext14_4x2d"},
    "train": {"epochs": 4, "batch_size": 4},
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_cohort(root, *, seed=0, patients=None):
    """Heads of grey 90..130 on black; lesions of grey 200..220, so that a threshold finds them exactly."""
    rng = np.random.default_rng(seed)
    for name, (rows, columns, slices, lesion, lesion_slices, _) in (patients or PATIENTS).items():
        row, column = np.mgrid[:rows, :columns]
        head = ((row - rows / 2) / (0.45 * rows)) ** 2 + ((column - columns / 2) / (0.4 * columns)) ** 2 < 1
        for z in range(slices):
            grey = np.where(head, rng.integers(90, 131, head.shape) + z, 0)
            mask = np.zeros(head.shape, dtype=bool)
            if lesion and z in lesion_slices:
                mask = (row - lesion[0]) ** 2 + (column - lesion[1]) ** 2 < lesion[2] ** 2
                grey = np.where(mask, rng.integers(200, 221, head.shape), grey)
            for part, picture in (("images", grey), ("masks", 255 * mask)):
                file = root / part / name / f"{z}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(file)


@pytest.fixture(scope="session")
def cohort_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort")
    write_cohort(root)
    return root


@pytest.fixture(scope="session")
def cohort(cohort_root):
    spacing = {name: entry[-1] for name, entry in PATIENTS.items() if entry[-1]}
    return scan_cohort(cohort_root, spacing_mm=spacing)


@pytest.fixture(scope="session")
def store(cohort, cohort_root, tmp_path_factory):
    return compile_store(
        cohort, cohort_root, tmp_path_factory.mktemp("store"), PictureConfig(image_size=32, crop="none")
    )


@pytest.fixture(scope="session")
def normalisation():
    return Normalisation(mean=110.0, std=30.0)


@pytest.fixture(scope="session")
def data(store, normalisation):
    """Train on a, c (no lesion) and e, validate on b; d and f are left for others."""
    return TrainingData(store, ("a", "c", "e"), ("b",), normalisation)


@pytest.fixture(scope="session")
def four_stacks(store, normalisation):
    """A patient of four slices, each with lesion, to train and to validate on."""
    return TrainingData(store, ("d",), ("d",), normalisation)


@pytest.fixture(scope="session")
def make_config():
    """Make a tiny configuration with some fields replaced, named by their dotted path."""

    def make(changes=None):
        fields = {key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()}
        for path, value in (changes or {}).items():
            assign(fields, path.split("."), value, "changes")
        return TrainConfig.model_validate(fields)

    return make


@pytest.fixture(scope="session")
def with_other_pixels(cohort_root, store, normalisation, tmp_path_factory):
    """Make the training data of the same cohort, but with the pictures of one patient drawn anew."""

    def make(patient, data):
        root = tmp_path_factory.mktemp("other")
        write_cohort(root)
        write_cohort(root, seed=1, patients={patient: PATIENTS[patient]})
        other = compile_store(scan_cohort(root), root, root / "cache", PictureConfig(image_size=32, crop="none"))
        return dataclasses.replace(data, store=other)

    return make


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory):
    """A state dict of torchvision's ResNeXt50 32x4d, as a user would have downloaded it (about 100 MB)."""
    path = tmp_path_factory.mktemp("weights") / "resnext50.pth"
    torch.manual_seed(5)
    torch.save(torchvision_models().resnext50_32x4d(weights=None).state_dict(), path)
    yield path
    path.unlink()
