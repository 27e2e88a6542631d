"""Grey-value statistics of the training patients, by which a network's input is normalised."""

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_prep.cohort.split import Split
from data_prep.cohort.store import Store
from data_prep.common.errors import InputError


class Normalisation(BaseModel):
    """Grey-value statistics of the training patients, window by window: x becomes (x - mean) / std."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...]
    """Mean grey value of the pixels inside the head, 0..255, in each window."""
    std: tuple[Annotated[float, Field(gt=0)], ...]
    """Their standard deviation, 0..255."""

    @model_validator(mode="before")
    @classmethod
    def _one_window(cls, data: Any) -> Any:
        """A number is that of one window, as models of earlier versions have it."""
        if not isinstance(data, dict):
            return data
        return {key: (value,) if isinstance(value, int | float) else value for key, value in data.items()}

    @model_validator(mode="after")
    def _one_of_each(self) -> "Normalisation":
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations; there is one of each a window")
        return self

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.mean)


def training_normalisation(store: Store, split: Split) -> Normalisation:
    """Statistics over all non-black pixels of the training patients, from histograms (exact, flat memory).

    Raises:
        InputError: the training slices are all black or all of one grey value.
    """
    counts_KG = np.zeros((store.window_count, 256), dtype=np.int64)
    for name in split.train:
        entry = store.patients[name]
        for window in range(store.window_count):
            pixels = store.windows_NKSS[entry.start : entry.stop, window].ravel()
            counts_KG[window] += np.bincount(pixels, minlength=256)
    statistics = [mean_and_deviation(counts_G) for counts_G in counts_KG]
    if any(std == 0 for _, std in statistics):
        raise InputError(f"{store.folder}: the training slices hold no contrast; check the exported images")
    mean, std = zip(*statistics, strict=True)
    return Normalisation(mean=mean, std=std)


def mean_and_deviation(counts_G: NDArray[np.int64]) -> tuple[float, float]:
    """Of grey values above 0, from the number of pixels of each."""
    counts_G = np.where(np.arange(256) > 0, counts_G, 0)
    values = np.arange(256)
    total = max(int(counts_G.sum()), 1)
    mean = float((counts_G * values).sum() / total)
    return mean, math.sqrt(float((counts_G * (values - mean) ** 2).sum() / total))
